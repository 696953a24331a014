//! What every page has: it holds its style and its scripts, and may load nothing.

use base64::prelude::{BASE64_STANDARD, Engine};
use sha2::{Digest, Sha256};

/// What `document.html`, the frame of all templates, is filled with.
pub(crate) struct Document<'a> {
    pub(crate) title: &'a str,
    pub(crate) policy: String,
    pub(crate) style: String,
    pub(crate) script: String,
}

impl<'a> Document<'a> {
    /// With style sheets in their order, and scripts of which each uses those before it.
    pub(crate) fn new(title: &'a str, styles: &[&str], scripts: &[&str]) -> Document<'a> {
        let style = styles.concat();
        // As one, which leaves nothing outside itself.
        let script = format!("'use strict';\n(() => {{\n{}}})();\n", scripts.concat());
        Document {
            title,
            policy: policy(&style, &script),
            style,
            script,
        }
    }
}

/// Nothing may be loaded, and no script or style may act that is not this very one: whatever a guest's name or
/// text does to the page, it stays text.
fn policy(style: &str, script: &str) -> String {
    format!(
        "default-src 'none'; style-src '{}'; script-src '{}'; base-uri 'none'; form-action 'none'",
        fingerprint(style),
        fingerprint(script),
    )
}

/// How a content security policy names an inline script or style.
fn fingerprint(text: &str) -> String {
    format!("sha256-{}", BASE64_STANDARD.encode(Sha256::digest(text)))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Nothing in them can end the element that they stand in.
    pub(crate) fn assert_inert(styles: &[&str], scripts: &[&str]) {
        for style in styles {
            assert!(!style.contains("</"), "{style}");
        }
        for script in scripts {
            assert!(
                !script.contains("</") && !script.contains("<!--"),
                "{script}"
            );
            // Every file says in its first line what it is.
            assert!(script.starts_with("// "), "{script}");
        }
    }

    #[test]
    fn a_page_is_known_for_one_by_its_beginning() {
        const MARK: &str = "<meta name=\"generator\" content=\"heirloom\">";
        let template = include_str!("../templates/document.html");
        assert!(template[..1000.min(template.len())].contains(MARK));
    }

    #[test]
    fn an_inline_script_is_named_by_its_hash() {
        // Of the empty text, as any tool computes it.
        assert_eq!(
            fingerprint(""),
            "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
        );
    }
}
