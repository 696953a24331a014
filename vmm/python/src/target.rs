//! A guest at one moment.

use std::path::PathBuf;
use std::sync::Arc;

use heirloom_inspect::check::{Allowance, Strictness};
use heirloom_inspect::discover::Search;
use heirloom_inspect::names::{Address, NameError, OwnAddress, RootName, number};
use heirloom_inspect::report::{CheckReport, LayoutReport, Roots, Subject, TranslateReport};
use heirloom_inspect::{
    Check, Discovery, Profile, RootId, VirtAddr, VirtRange, target::Target as Guest,
};
use heirloom_source::{Spec, read_symbols};
use pyo3::prelude::*;

use crate::rows::{Table, What};
use crate::{dictionary, failed};

/// A guest at the moment at which it was opened: its page tables, and what is known of them.
#[pyclass(frozen, module = "heirloom")]
pub(crate) struct Target {
    name: String,
    discovery: Arc<Discovery>,
}

/// Opens a guest, finds its address spaces, and lets a live one run on.
///
/// A target is written as for the command: a file (a dump, an image, a recording), `qemu:SOCKET`,
/// `rec:FILE@EVENT`, `raw:FILE,cr3=0x1000`, `live:`.
///
/// profile is `linux`, `xen`, `heirloom` or `generic`, where memory does not tell; symbols is a file with the
/// kernel's names; roots are addresses of root tables that are to be looked at, whatever is found; blind
/// forgets what is known of CPUs and roots, and looks for kernel halves in all of memory.
#[pyfunction]
#[pyo3(signature = (target, *, profile=None, symbols=None, roots=Vec::new(), blind=false))]
pub(crate) fn open(
    py: Python<'_>,
    target: &str,
    profile: Option<&str>,
    symbols: Option<PathBuf>,
    roots: Vec<u64>,
    blind: bool,
) -> PyResult<Target> {
    let spec: Spec = target.parse().map_err(failed)?;
    let profile = profile.map(|name| {
        let refused = || format!("profile {name}: write linux, xen, heirloom or generic");
        Profile::named(name).ok_or_else(refused)
    });
    let search = Search {
        profile: profile.transpose().map_err(failed)?,
        including: roots
            .into_iter()
            .map(|root| heirloom_inspect::Cr3::new(root).root())
            .collect(),
    };
    // Others may run Python meanwhile.
    py.detach(|| {
        let mut guest = spec.open().map_err(|error| error.to_string())?;
        if blind {
            guest.cpus.clear();
            guest.roots.clear();
            guest.depth = None;
            guest.notes.clear();
        }
        Target::of(guest, search, symbols)
    })
    .map_err(failed)
}

/// An address as Python has it: a number, or a text such as `init_task+0x10` or `pid:7:0x400000`.
pub(crate) enum Given {
    Number(u64),
    Text(String),
}

impl<'a, 'py> FromPyObject<'a, 'py> for Given {
    type Error = PyErr;

    fn extract(given: Borrowed<'a, 'py, PyAny>) -> PyResult<Given> {
        match given.extract() {
            Ok(text) => Ok(Given::Text(text)),
            // What Python says of other things is about numbers.
            Err(_) => given.extract().map(Given::Number),
        }
    }
}

impl Target {
    /// Finds the address spaces, and lets a live guest run on.
    ///
    /// # Errors
    /// The sentence that says why not.
    pub(crate) fn of(
        guest: Guest,
        search: Search,
        symbols: Option<PathBuf>,
    ) -> Result<Target, String> {
        let mut discovery = Discovery::by(&guest, search).map_err(|error| error.to_string())?;
        discovery.read_names(&guest);
        if let Some(path) = symbols {
            let file = read_symbols(&path).map_err(|error| error.to_string())?;
            let used = discovery.use_symbols(&guest, &file);
            used.map_err(|error| error.to_string())?;
        }
        if let Some(problem) = guest.memory.account().problem {
            return Err(format!("{}: {problem}", guest.name));
        }
        Ok(Target {
            name: guest.name.clone(),
            discovery: Arc::new(discovery),
        })
    }

    /// The root that is meant.
    fn root(&self, given: Option<Given>) -> Result<RootId, NameError> {
        let name = given.map(|given| match given {
            Given::Number(cr3) => Ok(RootName::Address(heirloom_inspect::Cr3::new(cr3).root())),
            Given::Text(text) => text.parse(),
        });
        self.discovery.root_named(name.transpose()?.as_ref())
    }
}

/// `FIRST-LAST`, both included.
fn range(text: &str) -> Result<VirtRange, String> {
    let refused = || {
        format!("`{text}` is no range of addresses: write FIRST-LAST, such as 0x400000-0x4fffff")
    };
    let (first, last) = text.split_once('-').ok_or_else(refused)?;
    let at = |text: &str| {
        number(text)
            .map(VirtAddr::new)
            .map_err(|error| error.to_string())
    };
    let range = VirtRange {
        first: at(first)?,
        last: at(last)?,
    };
    (range.first <= range.last)
        .then_some(range)
        .ok_or_else(refused)
}

#[pymethods]
impl Target {
    /// The guest, as it was named.
    #[getter]
    fn name(&self) -> &str {
        &self.name
    }

    fn __repr__(&self) -> String {
        let spaces = self.discovery.spaces.len();
        let what = if spaces == 1 {
            "address space"
        } else {
            "address spaces"
        };
        format!("<heirloom.Target {}: {spaces} {what}>", self.name)
    }

    /// What was opened: how its tables are read, the profile and why, its CPUs' registers, its RAM, and what was
    /// assumed.
    #[getter]
    fn subject<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        dictionary(py, &Subject::new(&self.name, &self.discovery))
    }

    /// Every address space: a list of dictionaries, as `heirloom roots --json` has them.
    fn roots<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        dictionary(py, &self.discovery.spaces)
    }

    /// Which address spaces have the very same kernel half, the largest cluster first.
    fn clusters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        dictionary(py, &Roots::new(&self.name, &self.discovery).clusters)
    }

    /// What lies where, with the evidence: the dictionary of `heirloom layout --json`.
    fn layout<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        dictionary(py, &LayoutReport::new(&self.name, &self.discovery))
    }

    /// What address spaces map, as a table that pyarrow, polars and pandas read.
    ///
    /// root is the address of a root table, `kernel`, `cpu0` or `pid7`, and `all` for every one; without it that of
    /// CPU 0. With leaves each row is a page, with its bits and where its entry stands; without, neighbours with
    /// equal rights are one row. within is `kernel`, `user` or `FIRST-LAST`.
    #[pyo3(signature = (root=None, *, leaves=true, within=None))]
    fn maps(&self, root: Option<Given>, leaves: bool, within: Option<&str>) -> PyResult<Table> {
        use heirloom_inspect::Half;
        let within = match within {
            None => VirtRange::ALL,
            Some("kernel") => VirtRange::half(Half::Kernel),
            Some("user") => VirtRange::half(Half::User),
            Some(text) => range(text).map_err(failed)?,
        };
        let roots = match &root {
            Some(Given::Text(text)) if text == "all" => {
                let spaces = self.discovery.spaces.iter();
                spaces.map(|space| space.root).collect()
            }
            _ => vec![self.root(root).map_err(failed)?],
        };
        let what = if leaves { What::Pages } else { What::Ranges };
        Ok(Table::new(self.discovery.clone(), roots, within, what))
    }

    /// The walk of an address, entry by entry: the dictionary of `heirloom translate --json`.
    ///
    /// address is a number or a text: `0xffffffff81000000`, `init_task+0x10`, `pid:7:0x400000`. The walk has a
    /// `translation` or a `fault`.
    #[pyo3(signature = (address, root=None))]
    fn translate<'py>(
        &self,
        py: Python<'py>,
        address: Given,
        root: Option<Given>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (process, address) = match address {
            Given::Number(number) => (None, Address::Number(number)),
            Given::Text(text) => {
                let own: OwnAddress = text.parse().map_err(failed)?;
                (own.process, own.address)
            }
        };
        let root = match (process, root) {
            (Some(_), Some(_)) => {
                return Err(failed(
                    "the address says whose it is; root would say it again",
                ));
            }
            (Some(pid), None) => self.discovery.root_named(Some(&RootName::Process(pid))),
            (None, root) => self.root(root),
        };
        let root = root.map_err(failed)?;
        let va = address.resolve(&self.discovery).map_err(failed)?;
        let report = TranslateReport::new(&self.name, &self.discovery, root, va);
        dictionary(py, &report)
    }

    /// The rules held against all address spaces: the dictionary of `heirloom check --json`. `holds` is the verdict,
    /// `rules` has each rule with its findings.
    ///
    /// require names rules that must be tried, allow those whose findings pass, all of them or those in a range
    /// (`user-write-xor-execute@0x400000-0x4fffff`); `strict_user` and `strict_idle` are the command's
    /// options.
    #[pyo3(signature = (*, require=Vec::new(), allow=Vec::new(), strict_user=false, strict_idle=false))]
    fn check<'py>(
        &self,
        py: Python<'py>,
        require: Vec<String>,
        allow: Vec<String>,
        strict_user: bool,
        strict_idle: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let required: Result<Vec<_>, _> = require.iter().map(|name| Check::rule(name)).collect();
        let required = required.map_err(failed)?;
        let allowed: Result<Vec<Allowance>, String> = allow
            .iter()
            .map(|text| {
                let (rule, within) = match text.split_once('@') {
                    Some((rule, within)) => (rule, Some(within)),
                    None => (text.as_str(), None),
                };
                Ok(Allowance {
                    rule: Check::rule(rule).map_err(|error| error.to_string())?,
                    range: within.map(range).transpose()?,
                })
            })
            .collect();
        let allowed = allowed.map_err(failed)?;
        let strictness = Strictness {
            user: strict_user,
            idle: strict_idle,
        };
        let report = py.detach(|| {
            let mut check = Check::of(&self.discovery, strictness);
            check.allow(&allowed);
            check.require(&required);
            CheckReport::new(&self.name, &self.discovery, check)
        });
        dictionary(py, &report)
    }
}
