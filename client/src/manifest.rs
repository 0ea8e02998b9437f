//! The manifest of local files, without a gateway.

use std::sync::Arc;

use metra_core::code::Code;
use metra_core::id::Digest;
use metra_core::manifest::{Ledger, LedgerError, LedgerLimits, Record};
use metra_store::source::{Item, ManifestCache, Problem, Reader, SourceSpec};

/// What hashing gave.
#[derive(Clone, Debug)]
pub struct Hashed {
    /// The identity of the whole: a receipt for the same files has the same.
    pub root: Digest,
    /// Records of the manifest.
    pub records: u64,
    /// Entries.
    pub entries: u64,
    /// Chunks.
    pub chunks: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// What could not be read, and is not in the manifest.
    pub problems: Vec<Problem>,
}

/// Why there is no manifest. Fault: whoever asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// It is too large for a manifest.
    #[error("manifest: {0}")]
    Ledger(#[from] LedgerError),
}

impl HashError {
    /// The code for it.
    pub fn code(&self) -> Code {
        Code::Limit
    }
}

/// Bytes read between two batches of records.
const STEP: usize = 4 << 20;

/// Reads everything in `spec` (or takes it from `cache`) and computes the root. `each` sees every record. Blocks.
///
/// # Errors
/// The manifest exceeds a limit.
pub fn hash(
    spec: &SourceSpec,
    cache: Option<Arc<dyn ManifestCache>>,
    mut each: impl FnMut(&Record),
) -> Result<Hashed, HashError> {
    let mut reader = Reader::new(spec, cache);
    let mut ledger = Ledger::new(LedgerLimits::default());
    let mut problems = Vec::new();
    loop {
        let step = reader.step(STEP);
        for item in step.items {
            let record = match item {
                Item::Entry { entry, .. } => Record::Entry(entry),
                Item::Chunk { len, hash, .. } => Record::Chunk { len, hash },
                Item::StreamEnd { size } => Record::StreamEnd { size },
                Item::Withdraw { entry } => Record::Withdraw(entry),
                Item::Problem(problem) => {
                    problems.push(problem);
                    continue;
                }
            };
            ledger.push(&record)?;
            each(&record);
        }
        if step.done {
            break;
        }
    }
    Ok(Hashed {
        root: ledger.finish()?,
        records: ledger.records(),
        entries: u64::from(ledger.entries()),
        chunks: u64::from(ledger.chunks()),
        bytes: ledger.bytes(),
        problems,
    })
}
