//! Whole jobs between a source and a sink, without I/O: over a wire that loses, reorders, duplicates, damages, and
//! changes its links, with a disk that says anything, in any order of events.
//!
//! What must hold at every step: no more is asked for ahead than the window, nothing is sent that was not wanted, sums
//! add up. And at the end: there is one, every chunk is settled once, and nothing is left outstanding.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod world;

use proptest::prelude::*;

use crate::world::{Setup, World};

fn setup() -> impl Strategy<Value = Setup> {
    let manifest = prop::collection::vec((1u32..6, 0u32..12), 0..12);
    let landing = (any::<bool>(), any::<bool>(), prop::option::weighted(0.2, 0u32..40));
    (any::<u64>(), manifest, 1u64..12, landing, 0u64..30).prop_map(
        |(seed, files, window, (reads_back, in_sequence, replan_at), faults)| Setup {
            seed,
            files,
            window: window * 200_000,
            reads_back: reads_back && !in_sequence,
            in_sequence,
            replan_at: replan_at.filter(|_| !in_sequence),
            faults,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn a_job_ends_and_its_sums_add_up(setup in setup()) {
        World::new(setup).run();
    }
}

/// Without faults nothing is sent twice.
#[test]
fn a_job_without_faults_sends_every_missing_chunk_once() {
    for seed in 0..200 {
        let setup = Setup {
            seed,
            files: vec![(5, 9), (3, 2), (1, 1)],
            window: 900_000,
            reads_back: false,
            // Nothing is withdrawn on its way then.
            in_sequence: true,
            replan_at: None,
            faults: 0,
        };
        let world = World::new(setup).run();
        let stats = world.source.stats();
        assert_eq!((stats.chunks_resent, stats.chunks_sent), (0, world.sink.stats().received), "seed {seed}");
    }
}
