//! heirloom for Python: `import heirloom`.
//!
//! What a guest's page tables are is found by `heirloom-inspect`; here it becomes dictionaries, as in the
//! command's JSON, and Arrow tables.
#![deny(missing_docs)]
#![allow(
    clippy::needless_pass_by_value,
    clippy::unused_self,
    reason = "Python gives values, and calls what it calls on an object"
)]

mod recording;
mod rows;
mod target;

use pyo3::create_exception;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use serde::Serialize;

create_exception!(
    heirloom,
    Error,
    PyException,
    "What was asked for cannot be had; the message says why, and what to do."
);

/// The exception with this message.
fn failed(error: impl std::fmt::Display) -> PyErr {
    Error::new_err(error.to_string())
}

/// A report as the dictionary that its JSON is.
fn dictionary<'py>(py: Python<'py>, report: &impl Serialize) -> PyResult<Bound<'py, PyAny>> {
    let text = serde_json::to_string(report).map_err(failed)?;
    py.import("json")?.call_method1("loads", (text,))
}

/// Page tables of x86-64 guests: address spaces, what they map, and rules that they must keep.
#[pymodule]
fn heirloom(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("Error", module.py().get_type::<Error>())?;
    module.add_class::<target::Target>()?;
    module.add_class::<rows::Table>()?;
    module.add_class::<recording::Recording>()?;
    module.add_function(wrap_pyfunction!(target::open, module)?)
}
