//! A recording: the moments of a run, each a guest to inspect.

use std::path::PathBuf;

use heirloom_inspect::discover::Search;
use heirloom_source::recording::Recording as File;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::failed;
use crate::target::Target;

/// The moments of a recorded run.
#[pyclass(frozen, module = "heirloom")]
pub(crate) struct Recording(File);

#[pymethods]
impl Recording {
    /// Opens the recording in a file, and verifies its checksums.
    #[new]
    fn open(py: Python<'_>, file: PathBuf) -> PyResult<Recording> {
        py.detach(|| File::open(&file).map(Recording))
            .map_err(failed)
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }

    fn __repr__(&self) -> String {
        format!(
            "<heirloom.Recording {}: {} moments>",
            self.0.name().display(),
            self.0.len()
        )
    }

    /// How it ends: that the run came to its end, or why it did not.
    #[getter]
    fn ending(&self) -> String {
        self.0.ending().to_string()
    }

    /// The moments: a list of dictionaries with the `number` that `at` takes, the `seconds` since the recording was
    /// begun, and whether page tables were `captured`.
    fn events<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let list = PyList::empty(py);
        for event in self.0.events() {
            let event = event.map_err(failed)?;
            let row = PyDict::new(py);
            row.set_item("number", event.number)?;
            row.set_item("seconds", event.at.as_secs_f64())?;
            row.set_item("captured", event.captured)?;
            list.append(row)?;
        }
        Ok(list)
    }

    /// The guest at an event; without a number at the last moment whose tables were recorded.
    #[pyo3(signature = (event=None))]
    fn at(&self, py: Python<'_>, event: Option<u64>) -> PyResult<Target> {
        py.detach(|| {
            let guest = self.0.target_at(event).map_err(|error| error.to_string())?;
            Target::of(guest, Search::default(), None)
        })
        .map_err(failed)
    }
}
