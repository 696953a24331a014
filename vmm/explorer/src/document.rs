//! What every page has: it holds its style and its scripts, and may load nothing.

use base64::prelude::{BASE64_STANDARD, Engine};
use sha2::{Digest, Sha256};

/// What a page shows, in the frame that all pages have.
pub(crate) struct Document<'a> {
    /// What it is about, as plain text.
    pub(crate) title: &'a str,
    /// What kind of page it is, one word.
    pub(crate) kind: &'a str,
    /// Style sheets in their order.
    pub(crate) styles: &'a [&'a str],
    /// Scripts, of which each uses those before it.
    pub(crate) scripts: &'a [&'a str],
    /// The elements that the scripts fill, as HTML.
    pub(crate) body: String,
    /// JSON that is [`inert`](crate::page::inert).
    pub(crate) data: String,
    /// Elements with more data, as HTML.
    pub(crate) more_data: String,
}

impl Document<'_> {
    /// The page as one HTML file.
    pub(crate) fn to_html(&self) -> String {
        let style = self.styles.concat();
        // As one, which leaves nothing outside itself.
        let script = format!(
            "'use strict';\n(() => {{\n{}}})();\n",
            self.scripts.concat()
        );
        format!(
            include_str!("../templates/document.html"),
            policy = policy(&style, &script),
            title = escaped(self.title),
            kind = self.kind,
            style = style,
            body = self.body,
            data = self.data,
            more_data = self.more_data,
            script = script,
        )
    }
}

/// Text as it stands between the tags of HTML.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
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
    fn text_stays_text() {
        let hostile = "</title><script>a&b";
        let document = Document {
            title: hostile,
            kind: "test",
            styles: &[],
            scripts: &[],
            body: String::new(),
            data: String::new(),
            more_data: String::new(),
        };
        let html = document.to_html();
        assert!(!html.contains(hostile), "{html}");
        assert!(
            html.contains("<title>&lt;/title&gt;&lt;script&gt;a&amp;b · heirloom test</title>")
        );
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
