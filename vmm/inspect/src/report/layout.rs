//! What lies where.

use serde::Serialize;

use super::subject::Subject;
use crate::discover::Discovery;
use crate::layout::Layout;

/// What `heirloom layout` found.
#[derive(Clone, Debug, Serialize)]
pub struct LayoutReport {
    pub version: u32,
    pub target: Subject,
    #[serde(flatten)]
    pub layout: Layout,
}

impl LayoutReport {
    /// The layout of `discovery`, which is of the target called `name`.
    pub fn new(name: &str, discovery: &Discovery) -> LayoutReport {
        LayoutReport {
            version: super::INSPECTION_VERSION,
            target: Subject::new(name, discovery),
            layout: discovery.layout.clone(),
        }
    }
}
