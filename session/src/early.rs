//! Records that come before their job is there: a source sends the first of them right behind `Push`, and opening a job takes
//! its time. They are held until the job is added, or refused, or its link is lost.

use std::collections::BTreeMap;

use metra_core::code::Code;
use metra_core::id::JobId;
use metra_core::limits::EARLY_MAX;
use metra_core::manifest::Record;
use metra_transport::LinkId;

/// Jobs of a session that may be about to be opened at a time.
const OPENING_MAX: usize = 64;

/// What is held for the jobs that are being opened; at most [`EARLY_MAX`] bytes for each.
#[derive(Debug, Default)]
pub(crate) struct Early(BTreeMap<JobId, Held>);

#[derive(Debug)]
struct Held {
    link: LinkId,
    /// From 0.
    records: Vec<Record>,
    bytes: usize,
}

/// Why a link is closed. Fault: the peer.
type Wrong = (Code, String);

impl Early {
    /// A job is to be opened, as was said on `link`.
    pub(crate) fn expect(&mut self, job: JobId, link: LinkId) -> Result<(), Wrong> {
        if self.0.len() >= OPENING_MAX && !self.0.contains_key(&job) {
            return Err((Code::Limit, "too many jobs are opened at a time".to_owned()));
        }
        self.0.entry(job).or_insert(Held { link, records: Vec::new(), bytes: 0 });
        Ok(())
    }

    /// Records of a job that is not there. Those of one that is not expected on this link are of no use to anybody.
    pub(crate) fn hold(
        &mut self,
        job: JobId,
        link: LinkId,
        first: u64,
        records: Vec<Record>,
    ) -> Result<(), Wrong> {
        let Some(held) = self.0.get_mut(&job).filter(|held| held.link == link) else { return Ok(()) };
        if first != held.records.len() as u64 {
            return Err((Code::Protocol, "records before Ready do not follow each other".to_owned()));
        }
        held.bytes += records.iter().map(Record::encoded_len).sum::<usize>();
        if held.bytes > EARLY_MAX {
            return Err((Code::Limit, "too many records before Ready".to_owned()));
        }
        held.records.extend(records);
        Ok(())
    }

    /// The job is there, or will never be.
    pub(crate) fn take(&mut self, job: JobId) -> Vec<Record> {
        self.0.remove(&job).map(|held| held.records).unwrap_or_default()
    }

    /// What came over a link that is lost comes again over another one.
    pub(crate) fn link_lost(&mut self, link: LinkId) {
        self.0.retain(|_, held| held.link != link);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use metra_core::id::Digest;

    use super::*;

    const JOB: JobId = JobId(7);

    fn records(count: usize) -> Vec<Record> {
        vec![Record::Chunk { len: 1, hash: Digest([0; 32]) }; count]
    }

    #[test]
    fn what_follows_the_opening_is_held_in_order_and_up_to_a_limit() {
        let (mut early, link, other) = (Early::default(), LinkId(1), LinkId(2));
        early.hold(JOB, link, 0, records(1)).unwrap();
        assert!(early.take(JOB).is_empty(), "nobody expects it");
        early.expect(JOB, link).unwrap();
        early.hold(JOB, link, 0, records(2)).unwrap();
        early.hold(JOB, other, 0, records(9)).unwrap();
        // Opened again on another link: that one waits for Ready.
        early.expect(JOB, other).unwrap();
        early.hold(JOB, link, 2, records(1)).unwrap();
        assert_eq!(early.hold(JOB, link, 4, records(1)).unwrap_err().0, Code::Protocol);
        assert_eq!(early.take(JOB).len(), 3);
        let most = EARLY_MAX / records(1)[0].encoded_len();
        early.expect(JOB, link).unwrap();
        early.hold(JOB, link, 0, records(most)).unwrap();
        assert_eq!(early.hold(JOB, link, most as u64, records(1)).unwrap_err().0, Code::Limit);
        early.link_lost(link);
        assert!(early.take(JOB).is_empty());
    }

    #[test]
    fn not_every_number_is_a_job_that_will_be() {
        let mut early = Early::default();
        for job in 0..OPENING_MAX as u64 {
            early.expect(JobId(job), LinkId(1)).unwrap();
        }
        early.expect(JobId(0), LinkId(1)).unwrap();
        assert_eq!(early.expect(JobId(1000), LinkId(1)).unwrap_err().0, Code::Limit);
    }
}
