//! Landing in a stream, and nowhere.

use std::io::{self, Write};
use std::sync::Mutex;

use super::*;

#[derive(Clone, Default)]
struct Out(Arc<Mutex<Vec<u8>>>);

impl Write for Out {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        // A pipe takes what it has room for.
        let taken = data.len().min(1000);
        self.0.lock().unwrap().extend_from_slice(&data[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn source() -> (Source, Vec<u8>) {
    let mut source = Source::default().dir("d", 0o755);
    let mut whole = Vec::new();
    for n in 0..30 {
        let data = noise(n, 300_000 + n as usize);
        source = source.small(&format!("d/s{n}"), &data[..50]).file(&format!("d/l{n}"), data.len() as u64);
        source = source.chunk(&data[..1000]).chunk(&data[1000..]);
        whole.extend_from_slice(&data[..50]);
        whole.extend_from_slice(&data);
    }
    (source, whole)
}

#[test]
fn whatever_the_order_of_arrival_the_stream_is_in_order() {
    let (source, whole) = source();
    for seed in 0..10 {
        let out = Out::default();
        let landing = StreamLanding::new(out.clone());
        let (end, told) = Attempt::new(&landing, &source).run(&mut Dice::new(seed), usize::MAX);
        let report = end.finished();
        assert_eq!((report.entries, report.bytes, report.failed), (60, whole.len() as u64, 1));
        assert_eq!(told.of("d"), Some(Code::Unsupported));
        assert!(*out.0.lock().unwrap() == whole);
    }
}

#[test]
fn what_is_written_cannot_be_withdrawn() {
    let (source, _) = source();
    let last = source.records.iter().filter(|r| matches!(r, Record::Entry(_))).count() as u32 - 1;
    let source = source.record(Record::Withdraw(metra_core::id::EntryIndex(last)));
    let landing = StreamLanding::new(Out::default());
    let (end, _) = Attempt::new(&landing, &source).run(&mut Dice::new(1), usize::MAX);
    assert!(matches!(end, End::Failed(error) if error.path == "d/l29"));
}

#[test]
fn a_gap_is_an_error_and_not_a_shorter_stream() {
    let (source, _) = source();
    let landing = StreamLanding::new(Out::default());
    let mut ledger = Ledger::new(LedgerLimits::default());
    source.records.iter().for_each(|r| assert!(ledger.push(r).is_ok()));
    landing.plan(&source.records).unwrap();
    for chunk in (0..ledger.chunks()).filter(|n| *n != 3) {
        let hash = ledger.chunk(ChunkIndex(chunk)).unwrap().hash;
        landing.write(ChunkIndex(chunk), &[], &source.data[&hash]).unwrap();
    }
    assert!(landing.finish(&ledger, &[]).is_err());
}

#[test]
fn a_closed_pipe_ends_the_job() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (source, _) = source();
    let (end, _) = Attempt::new(&StreamLanding::new(Closed), &source).run(&mut Dice::new(1), usize::MAX);
    assert!(matches!(end, End::Failed(_)));
}

#[test]
fn nowhere_counts_all_the_same() {
    let (source, whole) = source();
    let (end, told) = Attempt::new(&NullLanding::default(), &source).run(&mut Dice::new(1), usize::MAX);
    assert_eq!(end.finished().bytes, whole.len() as u64);
    assert_eq!(told.stats.received, 90);
}
