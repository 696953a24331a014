//! What address spaces map as an Arrow table, through the Arrow PyCapsule interface: whoever reads it decides with
//! which library.

use std::sync::Arc;

use arrow_array::builder::{
    BooleanBuilder, StringBuilder, StringDictionaryBuilder, UInt8Builder, UInt16Builder,
    UInt32Builder, UInt64Builder,
};
use arrow_array::ffi_stream::FFI_ArrowArrayStream;
use arrow_array::types::Int16Type;
use arrow_array::{ArrayRef, RecordBatch, RecordBatchReader};
use arrow_schema::ffi::FFI_ArrowSchema;
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use heirloom_inspect::layout::Area;
use heirloom_inspect::leaves::STEP_LIMIT;
use heirloom_inspect::report::{Column, Kind, Row};
use heirloom_inspect::{Discovery, Entry, PageSize, Pfn, RootId, VirtAddr, VirtRange};
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

use crate::failed;

/// Rows that are made at a time.
const BATCH: usize = 1 << 13;

/// What a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// A page.
    Pages,
    /// Neighbouring pages with equal rights.
    Ranges,
}

/// What address spaces map: rows that are made when they are read, as often as they are.
#[pyclass(frozen, module = "heirloom")]
pub(crate) struct Table {
    discovery: Arc<Discovery>,
    roots: Vec<RootId>,
    within: VirtRange,
    what: What,
}

impl Table {
    pub(crate) fn new(
        discovery: Arc<Discovery>,
        roots: Vec<RootId>,
        within: VirtRange,
        what: What,
    ) -> Table {
        Table {
            discovery,
            roots,
            within,
            what,
        }
    }

    fn reader(&self) -> Reader {
        let mut roots = self.roots.clone();
        roots.reverse();
        Reader {
            discovery: self.discovery.clone(),
            schema: schema(),
            roots,
            within: self.within,
            what: self.what,
            next: Some(self.within.first),
            rows: 0,
        }
    }
}

#[pymethods]
impl Table {
    /// The names of the columns.
    #[getter]
    fn column_names(&self) -> Vec<&'static str> {
        Row::COLUMNS.iter().map(|column| column.name).collect()
    }

    fn __repr__(&self) -> String {
        let what = match self.what {
            What::Pages => "pages",
            What::Ranges => "ranges",
        };
        let spaces = self.roots.len();
        format!("<heirloom.Table: {what} of {spaces} address space(s)>")
    }

    /// The Arrow C stream, for `pyarrow.table`, `polars.DataFrame` and others.
    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_stream__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        // Whoever asks for another schema gets ours, and casts it, as the interface has it.
        drop(requested_schema);
        let stream = FFI_ArrowArrayStream::new(Box::new(self.reader()));
        PyCapsule::new_with_value(py, stream, c"arrow_array_stream")
    }

    /// The Arrow C schema.
    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        let schema = FFI_ArrowSchema::try_from(&*schema()).map_err(failed)?;
        PyCapsule::new_with_value(py, schema, c"arrow_schema")
    }
}

/// The columns of a [`Row`]. Addresses are numbers: these have 64 bits here.
fn schema() -> SchemaRef {
    let words = || DataType::Dictionary(Box::new(DataType::Int16), Box::new(DataType::Utf8));
    let column = |column: &Column| {
        let kind = match column.kind {
            Kind::Number(8) => DataType::UInt8,
            Kind::Number(16) => DataType::UInt16,
            Kind::Number(32) => DataType::UInt32,
            Kind::Number(_) => DataType::UInt64,
            Kind::Truth => DataType::Boolean,
            Kind::Text => DataType::Utf8,
            Kind::Word => words(),
        };
        Field::new(column.name, kind, column.may_miss)
    };
    let columns: Vec<Field> = Row::COLUMNS.iter().map(column).collect();
    Arc::new(Schema::new(columns))
}

/// Makes the rows, batch by batch.
struct Reader {
    discovery: Arc<Discovery>,
    schema: SchemaRef,
    /// Address spaces that are not read to their end, the next one last.
    roots: Vec<RootId>,
    within: VirtRange,
    what: What,
    /// Where the next address space is gone on with; `None` if nothing is left of it.
    next: Option<VirtAddr>,
    /// Rows made of it.
    rows: u64,
}

impl Reader {
    /// The rows of at most one batch; none at the end.
    fn fill(&mut self, columns: &mut Columns) -> Result<(), ArrowError> {
        let discovery = self.discovery.clone();
        while let Some(&root) = self.roots.last() {
            let space = discovery.space(root);
            let Some(first) = self.next else {
                self.roots.pop();
                self.next = Some(self.within.first);
                self.rows = 0;
                continue;
            };
            let rest = VirtRange {
                first,
                last: self.within.last,
            };
            let mut add = |row: &Row<'_>, range: VirtRange| {
                columns.push(row);
                self.rows += 1;
                let after = range.last.checked_add(1);
                self.next = after.filter(|next| *next <= self.within.last);
                columns.rows < BATCH && self.next.is_some()
            };
            let stopped_at = match self.what {
                What::Pages => {
                    let mut pages = discovery.snapshot.leaves(root, rest);
                    let is_full = pages
                        .by_ref()
                        .any(|page| !add(&Row::page(space, &page, &discovery), page.range()));
                    (!is_full).then(|| pages.stopped_at())
                }
                What::Ranges => {
                    let mut ranges = discovery.snapshot.ranges(root, rest);
                    let is_full = ranges
                        .by_ref()
                        .any(|range| !add(&Row::range(space, &range, &discovery), range.range));
                    (!is_full).then(|| ranges.stopped_at())
                }
            };
            match stopped_at {
                // It is at its end.
                Some(None) => self.next = None,
                Some(Some(at)) => return Err(too_many(at)),
                // What a walk is bound by, all walks of it together are, too.
                None if self.rows > u64::from(STEP_LIMIT) => return Err(too_many(first)),
                None if columns.rows >= BATCH => return Ok(()),
                None => {}
            }
        }
        Ok(())
    }
}

fn too_many(at: VirtAddr) -> ArrowError {
    let what = format!("cut at {at}: the tables claim too many pages");
    ArrowError::ComputeError(what)
}

impl Iterator for Reader {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut columns = Columns::default();
        if let Err(error) = self.fill(&mut columns) {
            self.roots.clear();
            return Some(Err(error));
        }
        (columns.rows > 0).then(|| columns.finish(self.schema.clone()))
    }
}

impl RecordBatchReader for Reader {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
}

/// The columns of a batch that is made.
#[derive(Default)]
struct Columns {
    rows: usize,
    root: UInt64Builder,
    pid: UInt32Builder,
    comm: StringBuilder,
    va: UInt64Builder,
    pa: UInt64Builder,
    bytes: UInt64Builder,
    write: BooleanBuilder,
    execute: BooleanBuilder,
    user: BooleanBuilder,
    area: StringDictionaryBuilder<Int16Type>,
    size: StringDictionaryBuilder<Int16Type>,
    global: BooleanBuilder,
    accessed: BooleanBuilder,
    dirty: BooleanBuilder,
    pat: UInt8Builder,
    entry: UInt64Builder,
    table: UInt64Builder,
    index: UInt16Builder,
}

impl Columns {
    fn push(&mut self, row: &Row<'_>) {
        self.rows += 1;
        self.root.append_value(row.root.get());
        self.pid.append_option(row.pid);
        self.comm.append_option(row.comm);
        self.va.append_value(row.va.get());
        self.pa.append_value(row.pa.get());
        self.bytes.append_value(row.bytes);
        self.write.append_value(row.write);
        self.execute.append_value(row.execute);
        self.user.append_value(row.user);
        self.area.append_option(row.area.map(Area::word));
        self.size.append_option(row.size.map(|size| match size {
            PageSize::Size4KiB => "4KiB",
            PageSize::Size2MiB => "2MiB",
            PageSize::Size1GiB => "1GiB",
        }));
        self.global.append_option(row.global);
        self.accessed.append_option(row.accessed);
        self.dirty.append_option(row.dirty);
        self.pat.append_option(row.pat);
        self.entry.append_option(row.entry.map(Entry::get));
        self.table.append_option(row.table.map(Pfn::get));
        self.index.append_option(row.index);
    }

    fn finish(mut self, schema: SchemaRef) -> Result<RecordBatch, ArrowError> {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.root.finish()),
            Arc::new(self.pid.finish()),
            Arc::new(self.comm.finish()),
            Arc::new(self.va.finish()),
            Arc::new(self.pa.finish()),
            Arc::new(self.bytes.finish()),
            Arc::new(self.write.finish()),
            Arc::new(self.execute.finish()),
            Arc::new(self.user.finish()),
            Arc::new(self.area.finish()),
            Arc::new(self.size.finish()),
            Arc::new(self.global.finish()),
            Arc::new(self.accessed.finish()),
            Arc::new(self.dirty.finish()),
            Arc::new(self.pat.finish()),
            Arc::new(self.entry.finish()),
            Arc::new(self.table.finish()),
            Arc::new(self.index.finish()),
        ];
        RecordBatch::try_new(schema, columns)
    }
}
