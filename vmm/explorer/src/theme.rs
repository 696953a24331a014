//! The colours of everything that heirloom draws, for light and dark grounds, and its type. The page has
//! them from `assets/css/tokens.css`; charts have them from here. A test holds the two together.

use std::fmt::Write as _;

/// A colour on a light and on a dark ground: red, green and blue of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Colour {
    /// As the style sheet calls it.
    pub name: &'static str,
    /// On a light ground.
    pub light: [u8; 3],
    /// On a dark ground.
    pub dark: [u8; 3],
}

const fn colour(name: &'static str, light: [u8; 3], dark: [u8; 3]) -> Colour {
    Colour { name, light, dark }
}

/// Type for text.
pub const FONT: &str = "system-ui, sans-serif";

/// What text stands on.
pub const SURFACE: Colour = colour("surface", [0xff, 0xff, 0xff], [0x1b, 0x1f, 0x26]);
/// Text.
pub const INK: Colour = colour("ink", [0x1c, 0x23, 0x30], [0xe8, 0xea, 0xee]);
/// Text of less weight.
pub const FAINT_INK: Colour = colour("ink-2", [0x47, 0x50, 0x63], [0xb3, 0xba, 0xc6]);
/// Lines that guide the eye.
pub const LINE: Colour = colour("line", [0xdf, 0xdc, 0xd5], [0x31, 0x38, 0x45]);
/// What is shared.
pub const BLUE: Colour = colour("shared", [0x00, 0x60, 0xa8], [0x7a, 0xb8, 0xea]);
/// What is private.
pub const GREEN: Colour = colour("private", [0x00, 0x79, 0x5a], [0x5f, 0xca, 0xa5]);
/// What diverges.
pub const RED: Colour = colour("diverging", [0xc4, 0x3c, 0x00], [0xff, 0x91, 0x66]);
/// What is looked at.
pub const OCHRE: Colour = colour("lit", [0x9a, 0x66, 0x00], [0xf2, 0xc1, 0x4e]);
/// A fifth, for charts.
pub const PLUM: Colour = colour("plum", [0xa8, 0x34, 0x7e], [0xe8, 0x93, 0xc6]);

/// All of them.
pub const ALL: [Colour; 9] = [SURFACE, INK, FAINT_INK, LINE, BLUE, GREEN, RED, OCHRE, PLUM];

/// `#1c2330`.
pub fn hexadecimal([red, green, blue]: [u8; 3]) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}

/// A style element for an SVG whose colours are the light ones, as attributes in capital letters: on a
/// system with dark colours it shows the dark ones.
pub fn dark_style() -> String {
    let mut rules = String::new();
    for colour in ALL {
        let light = hexadecimal(colour.light).to_uppercase();
        let dark = hexadecimal(colour.dark);
        for property in ["fill", "stroke"] {
            // Writing to a string cannot fail.
            let _ = write!(rules, "[{property}=\"{light}\"]{{{property}:{dark}}}");
        }
    }
    format!("<style>@media(prefers-color-scheme:dark){{{rules}}}</style>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charts_have_the_colours_of_the_page() {
        let tokens = include_str!("../assets/css/tokens.css");
        let (light, dark) = tokens
            .split_once("@media (prefers-color-scheme: dark)")
            .unwrap();
        let (system, chosen) = dark.split_once(":root[data-theme='dark']").unwrap();
        for colour in ALL {
            let says = |rgb| format!("--{}: {};", colour.name, hexadecimal(rgb));
            assert!(light.contains(&says(colour.light)), "{colour:?}");
            assert!(system.contains(&says(colour.dark)), "{colour:?}");
            assert!(chosen.contains(&says(colour.dark)), "{colour:?}");
        }
    }
}
