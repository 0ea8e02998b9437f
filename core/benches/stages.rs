//! What the stages of a transfer cost per byte, on one core: `cargo bench -p metra-core`.
#![allow(missing_docs)]

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use fastcdc::v2020::FastCDC;
use metra_core::chunker::Cutter;
use metra_core::id::Digest;
use metra_core::limits::{CHUNK_AVG, CHUNK_MAX, CHUNK_MIN};
use metra_core::manifest::TreeBuilder;

fn main() {
    divan::main();
}

/// Bytes that look random to the cutter.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut word = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state ^ (state >> 29)).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()
    };
    (0..len.div_ceil(8)).flat_map(|_| word()).take(len).collect()
}

const DATA: usize = 128 << 20;

fn cut_all(data: &[u8]) -> usize {
    let cutter = Cutter::new();
    let (mut at, mut chunks) = (0, 0);
    while let Some(len) = cutter.cut(&data[at..], true) {
        at += len;
        chunks += 1;
    }
    chunks
}

#[divan::bench(sample_count = 10)]
fn chunking(bencher: Bencher<'_, '_>) {
    let data = noise(DATA);
    bencher.counter(BytesCount::new(DATA)).bench_local(|| cut_all(black_box(&data)));
}

/// The loop of the crate that the algorithm comes from: what a search in lanes is held against.
#[divan::bench(sample_count = 10)]
fn chunking_by_the_crate(bencher: Bencher<'_, '_>) {
    let data = noise(DATA);
    bencher
        .counter(BytesCount::new(DATA))
        .bench_local(|| FastCDC::new(black_box(&data), CHUNK_MIN, CHUNK_AVG, CHUNK_MAX).count());
}

#[divan::bench(sample_count = 10)]
fn chunking_zeros(bencher: Bencher<'_, '_>) {
    let data = vec![0; DATA];
    bencher.counter(BytesCount::new(DATA)).bench_local(|| cut_all(black_box(&data)));
}

#[divan::bench(sample_count = 100)]
fn hashing_1_mib(bencher: Bencher<'_, '_>) {
    let data = noise(1 << 20);
    bencher.counter(BytesCount::new(data.len())).bench_local(|| Digest::of(black_box(&data)));
}

#[divan::bench(sample_count = 100)]
fn hashing_10_kib(bencher: Bencher<'_, '_>) {
    let data = noise(10 << 10);
    bencher.counter(BytesCount::new(data.len())).bench_local(|| Digest::of(black_box(&data)));
}

/// Leaves of the size that a chunk's record has.
#[divan::bench(sample_count = 20)]
fn tree_10_000_leaves(bencher: Bencher<'_, '_>) {
    let leaf = noise(36);
    bencher.counter(ItemsCount::new(10_000usize)).bench_local(|| {
        let mut tree = TreeBuilder::new();
        for _ in 0..10_000 {
            tree.push(black_box(&leaf));
        }
        tree.finish()
    });
}
