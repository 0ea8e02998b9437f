//! The client's memory of networks, over runs: a small file in the state folder.

use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};
use std::time::SystemTime;

use metra_fallback::ladder::{Networks, Place, Rung, Tried};

/// The file, and what is written before it takes its place.
const FILE: &str = "networks";
const NEW: &str = "networks.new";

/// What is known, and where it is kept.
pub(crate) struct Memory {
    state: Option<PathBuf>,
    known: Mutex<Networks>,
}

impl Memory {
    /// What earlier runs have left in a state folder; `None`: nothing is known, and nothing is kept. A file that cannot be
    /// read or makes no sense is none.
    pub(crate) fn new(state: Option<PathBuf>) -> Self {
        let text = state.as_ref().and_then(|state| fs::read_to_string(state.join(FILE)).ok());
        let known = text.map(|text| Networks::from_text(&text, SystemTime::now()));
        let known = known.unwrap_or_else(|| Ok(Networks::default())).unwrap_or_else(|error| {
            tracing::debug!(%error, "a damaged memory of networks is left out");
            Networks::default()
        });
        Self { state, known: Mutex::new(known) }
    }

    pub(crate) fn order(
        &self,
        place: &Place,
        rungs: &[Rung],
        now: SystemTime,
    ) -> Vec<(Rung, Option<String>)> {
        self.lock().order(place, rungs, now)
    }

    pub(crate) fn learn(&self, place: &Place, report: &[Tried], now: SystemTime) {
        self.change(|known| known.learn(place, report, now));
    }

    pub(crate) fn works(&self, place: &Place, rung: Rung) {
        self.change(|known| known.works(place, rung));
    }

    pub(crate) fn failed(&self, place: &Place, rung: Rung, why: &str, now: SystemTime) {
        self.change(|known| known.failed(place, rung, why.to_owned(), now));
    }

    fn change(&self, change: impl FnOnce(&mut Networks)) {
        let changed = {
            let mut known = self.lock();
            let before = known.clone();
            change(&mut known);
            *known != before
        };
        // At once: the process may be killed, and a file of a few lines is soon written.
        if changed {
            self.save();
        }
    }

    /// Keeps it. Not synced: whoever cuts the power loses a little time the next time.
    pub(crate) fn save(&self) {
        let Some(state) = &self.state else { return };
        let text = self.lock().to_text();
        let new = state.join(format!("{NEW}.{}", std::process::id()));
        if let Err(error) = fs::write(&new, text).and_then(|()| fs::rename(&new, state.join(FILE))) {
            tracing::debug!(%error, "what is known of networks is not kept");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Networks> {
        self.known.lock().expect("no panic while held")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use metra_fallback::ladder::Outcome;

    use super::*;

    const RUNGS: [Rung; 2] = [Rung::Quic, Rung::Tls];

    #[test]
    fn what_is_learnt_is_there_in_the_next_run() {
        let dir = tempfile::tempdir().unwrap();
        let state = Some(dir.path().to_owned());
        let (place, now) = (Place::new("net", None, "gw:1"), SystemTime::now());
        let tried = |rung, outcome| Tried { rung, outcome, took: Duration::ZERO };
        let report = [tried(Rung::Quic, Outcome::Silent), tried(Rung::Tls, Outcome::Used)];
        Memory::new(state.clone()).learn(&place, &report, now);
        let memory = Memory::new(state.clone());
        assert_eq!(memory.order(&place, &RUNGS, now)[0], (Rung::Tls, None));
        memory.works(&place, Rung::Quic);
        assert_eq!(Memory::new(state).order(&place, &RUNGS, now)[0], (Rung::Quic, None));
        let files = fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(files, 1, "nothing else is left");
    }

    #[test]
    fn a_damaged_file_is_none() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), b"\xff nonsense").unwrap();
        let memory = Memory::new(Some(dir.path().to_owned()));
        assert_eq!(memory.order(&Place::new("n", None, "g"), &[Rung::Quic], SystemTime::now()).len(), 1);
    }
}
