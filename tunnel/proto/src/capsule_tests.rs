#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;

/// A capsule of any type, around any value.
fn capsule(kind: u64, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    varint::put(kind, &mut out);
    varint::put(value.len() as u64, &mut out);
    out.extend_from_slice(value);
    out
}

fn udp(payload: &[u8]) -> Vec<u8> {
    capsule(DATAGRAM, &[&[0], payload].concat())
}

/// What a stream says if it arrives in pieces of `sizes` bytes, over and over.
fn decode(stream: &[u8], sizes: &[usize]) -> (Vec<Bytes>, Skipped, Result<(), CapsuleError>) {
    let (mut decoder, mut payloads, mut rest) = (CapsuleDecoder::new(), Vec::new(), stream);
    for size in sizes.iter().cycle() {
        let (piece, more) = rest.split_at((*size).min(rest.len()));
        rest = more;
        decoder.push(Bytes::copy_from_slice(piece));
        while let Ok(Some(payload)) = decoder.next() {
            payloads.push(payload);
        }
        if rest.is_empty() {
            break;
        }
    }
    (payloads, decoder.skipped(), decoder.finish())
}

fn whole(stream: &[u8]) -> (Vec<Bytes>, Skipped, Result<(), CapsuleError>) {
    decode(stream, &[stream.len().max(1)])
}

#[test]
fn rfc9297_3_2_unknown_capsules_are_skipped_and_may_be_of_any_length() {
    let grease = 0x29 * 7 + 0x17;
    let stream = [capsule(0x01, &[1; 70_000]), udp(b"a"), capsule(grease, &[]), udp(b"b")].concat();
    let expected = vec![Bytes::from_static(b"a"), Bytes::from_static(b"b")];
    assert_eq!(whole(&stream), (expected, Skipped { capsules: 2, ..Skipped::default() }, Ok(())));

    let mut longest = CapsuleDecoder::new();
    let head = [&[0x17][..], &[0xff; 8]].concat();
    longest.push(head.into());
    for _ in 0..100 {
        longest.push(Bytes::from_static(&[0; 100_000]));
        assert_eq!(longest.next(), Ok(None));
        assert!(longest.input.is_empty(), "nothing of it is kept");
    }
}

#[test]
fn rfc9297_3_2_a_payload_is_gathered_and_what_is_only_announced_takes_no_memory() {
    let mut decoder = CapsuleDecoder::new();
    let stream = Bytes::from(udp(&[7; UDP_PAYLOAD_MAX]));
    decoder.push(stream.slice(..100));
    assert_eq!(decoder.next(), Ok(None));
    let State::Payload { gathered, .. } = &decoder.state else { panic!("{:?}", decoder.state) };
    assert!(gathered.capacity() <= GATHER);
    decoder.push(stream.slice(100..));
    assert_eq!(decoder.next(), Ok(Some(Bytes::from_static(&[7; UDP_PAYLOAD_MAX]))));
    assert_eq!(decoder.finish(), Ok(()));
}

#[test]
fn a_payload_that_comes_in_one_piece_is_not_copied() {
    let mut decoder = CapsuleDecoder::new();
    let stream = Bytes::from([udp(&[1; 1200]), udp(&[2; 1200])].concat());
    decoder.push(stream.clone());
    let (first, second) = (decoder.next().unwrap().unwrap(), decoder.next().unwrap().unwrap());
    let within = stream.as_ptr_range();
    assert!(within.contains(&first.as_ptr()) && within.contains(&second.as_ptr()));
    // What the head came with does not matter.
    let head = stream.len() - second.len() - 2;
    let mut decoder = CapsuleDecoder::new();
    decoder.push(stream.slice(first.len() + 4..head));
    assert_eq!(decoder.next(), Ok(None));
    decoder.push(stream.slice(head..));
    assert!(within.contains(&decoder.next().unwrap().unwrap().as_ptr()));
}

#[test]
fn rfc9297_3_3_end_inside_a_capsule_is_malformed() {
    for stream in [udp(b"payload"), capsule(0x17, b"value"), capsule(DATAGRAM, &[2, 1, 1])] {
        assert_eq!(whole(&stream).2, Ok(()));
        for cut in 1..stream.len() {
            assert_eq!(
                whole(&stream[..cut]),
                (vec![], whole(&stream[..cut]).1, Err(CapsuleError::Cut)),
                "{cut}"
            );
        }
    }
    assert_eq!((CapsuleError::Cut.h3_code(), CapsuleError::Cut.h2_code()), (0x10e, 1));
}

#[test]
fn rfc9297_3_3_a_datagram_capsule_too_short_for_its_context_id_is_malformed() {
    for value in [&[][..], &[0x40], &[0x80, 0, 0], &[0xc0, 0, 0, 0, 0, 0, 0]] {
        let stream = [udp(b"before"), capsule(DATAGRAM, value), udp(b"after")].concat();
        let expected =
            (vec![Bytes::from_static(b"before")], Skipped::default(), Err(CapsuleError::NoContext));
        assert_eq!(whole(&stream), expected);
        assert_eq!(decode(&stream, &[1]), expected);
    }
}

#[test]
fn rfc9298_5_both_sides_of_the_longest_udp_payload() {
    let longest = [0x5a; UDP_PAYLOAD_MAX];
    assert_eq!(
        whole(&udp(&longest)),
        (vec![Bytes::from_static(&[0x5a; UDP_PAYLOAD_MAX])], Skipped::default(), Ok(()))
    );
    // It fails as soon as the context is known: nothing of the payload is waited for.
    let mut decoder = CapsuleDecoder::new();
    let longer = Bytes::from(udp(&[0; UDP_PAYLOAD_MAX + 1]));
    decoder.push(longer.slice(..6));
    assert_eq!(decoder.next(), Err(CapsuleError::TooLong(65_528)));
    decoder.push(longer.slice(6..));
    assert_eq!(decoder.next(), Err(CapsuleError::TooLong(65_528)), "a failed stream stays failed");
    assert_eq!(decoder.finish(), Err(CapsuleError::TooLong(65_528)));
    assert!(decoder.input.is_empty());
}

#[test]
fn rfc9298_5_an_empty_udp_payload_is_valid() {
    assert_eq!(whole(&[0, 1, 0]), (vec![Bytes::new()], Skipped::default(), Ok(())));
}

#[test]
fn rfc9298_5_unknown_contexts_are_dropped_whatever_their_length() {
    let long = capsule(DATAGRAM, &[&[2][..], &[0; UDP_PAYLOAD_MAX + 10]].concat());
    let stream = [long, capsule(DATAGRAM, &[0x7f, 0xff]), udp(b"a")].concat();
    let expected = (vec![Bytes::from_static(b"a")], Skipped { contexts: 2, ..Skipped::default() }, Ok(()));
    assert_eq!(whole(&stream), expected);
    assert_eq!(decode(&stream, &[3, 1000]), expected);
}

#[test]
fn rfc9298_5_payloads_too_long_for_the_link_are_dropped_without_being_gathered() {
    let mut decoder = CapsuleDecoder::with_longest(1000);
    let stream = Bytes::from([udp(&[1; 1001]), udp(&[2; 1000])].concat());
    decoder.push(stream.slice(..900));
    assert_eq!(decoder.next(), Ok(None));
    assert!(matches!(decoder.state, State::Skip { .. }));
    decoder.push(stream.slice(900..));
    assert_eq!(decoder.next(), Ok(Some(Bytes::from_static(&[2; 1000]))));
    assert_eq!((decoder.skipped(), decoder.finish()), (Skipped { long: 1, ..Skipped::default() }, Ok(())));
}

#[test]
fn rfc9298_5_no_prefix_for_a_payload_that_udp_cannot_carry() {
    assert_eq!(prefix(0).as_deref(), Some(&[0, 1, 0][..]));
    assert_eq!(prefix(62).as_deref(), Some(&[0, 63, 0][..]));
    assert_eq!(prefix(63).as_deref(), Some(&[0, 0x40, 64, 0][..]));
    assert_eq!(prefix(UDP_PAYLOAD_MAX).as_deref(), Some(&[0, 0x80, 0, 0xff, 0xf8, 0][..]));
    assert_eq!(prefix(UDP_PAYLOAD_MAX + 1), None);
    let mut out = Vec::new();
    assert!(!put(&[0; UDP_PAYLOAD_MAX + 1], &mut out) && out.is_empty());
}

proptest! {
    #[test]
    fn pieces_do_not_matter(
        capsules in prop::collection::vec(
            (prop_oneof![Just(0u64), Just(1), Just(0x17), any::<u64>().prop_map(|n| n >> 2)],
             prop_oneof![Just(0u64), Just(2), any::<u64>().prop_map(|n| n >> 2)],
             prop::collection::vec(any::<u8>(), 0..100)),
            0..8,
        ),
        sizes in prop::collection::vec(1usize..40, 1..20),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut stream = Vec::new();
        let (mut payloads, mut skipped) = (Vec::new(), Skipped::default());
        for (kind, context, value) in &capsules {
            let mut datagram = Vec::new();
            varint::put(*context, &mut datagram);
            datagram.extend_from_slice(value);
            stream.extend(capsule(*kind, &datagram));
            match (kind, context) {
                (0, 0) => payloads.push(Bytes::copy_from_slice(value)),
                (0, _) => skipped.contexts += 1,
                _ => skipped.capsules += 1,
            }
        }
        prop_assert_eq!(decode(&stream, &sizes), (payloads, skipped, Ok(())));
        let cut = &stream[..cut.index(stream.len() + 1)];
        prop_assert_eq!(decode(cut, &sizes), whole(cut));
    }

    #[test]
    fn pieces_do_not_matter_for_arbitrary_bytes_either(
        bytes in prop::collection::vec(prop_oneof![0u8..4, any::<u8>()], 0..300),
        sizes in prop::collection::vec(1usize..20, 1..20),
    ) {
        prop_assert_eq!(decode(&bytes, &sizes), whole(&bytes));
    }

    #[test]
    fn round_trip(payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..2000), 0..6)) {
        let mut stream = Vec::new();
        for payload in &payloads {
            prop_assert!(put(payload, &mut stream));
        }
        let payloads: Vec<_> = payloads.into_iter().map(Bytes::from).collect();
        prop_assert_eq!(whole(&stream), (payloads, Skipped::default(), Ok(())));
    }
}
