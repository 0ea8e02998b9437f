use proptest::prelude::*;

use super::checksum::{pseudo, set_ip, sum};
use super::virtio::{Kind, Virtio};
use super::*;

/// A packet, or many in one, as a kernel has it before anything is cut; its checksum of TCP or UDP is still to be made.
#[derive(Clone, Debug)]
struct Sent {
    tcp: bool,
    service: u8,
    id: u16,
    dont_fragment: bool,
    port: u16,
    sequence: u32,
    flags: u8,
    /// Words of TCP's options.
    options: usize,
    payload: usize,
    size: usize,
}

impl Sent {
    fn headers(&self) -> usize {
        if self.tcp { 40 + 4 * self.options } else { 28 }
    }

    fn frame(&self) -> Vec<u8> {
        let offset = if self.tcp { TCP_CHECKSUM } else { UDP_CHECKSUM };
        let kind = match (self.payload > self.size, self.tcp) {
            (false, _) => Kind::Whole,
            (true, true) => Kind::Tcp,
            (true, false) => Kind::Udp,
        };
        let (headers, size) = if kind == Kind::Whole { (0, 0) } else { (self.headers(), self.size) };
        let virtio = Virtio { partial: Some((20, offset)), kind, headers, size };
        let mut packet = vec![0; self.headers() + self.payload];
        for (place, byte) in packet[self.headers()..].iter_mut().enumerate() {
            *byte = (place / 3) as u8 ^ self.sequence as u8;
        }
        let whole = packet.len() as u16;
        let (ip, carried) = packet.split_at_mut(20);
        (ip[0], ip[1], ip[8]) = (0x45, self.service, 64);
        ip[2..4].copy_from_slice(&whole.to_be_bytes());
        ip[4..6].copy_from_slice(&self.id.to_be_bytes());
        ip[6] = if self.dont_fragment { 0x40 } else { 0 };
        ip[9] = if self.tcp { TCP } else { UDP };
        ip[12..20].copy_from_slice(&[10, 77, 0, 1, 10, 77, 0, 2]);
        set_ip(ip);
        carried[..2].copy_from_slice(&self.port.to_be_bytes());
        carried[2..4].copy_from_slice(&[20, 81]);
        if self.tcp {
            carried[4..8].copy_from_slice(&self.sequence.to_be_bytes());
            carried[8..12].copy_from_slice(&[1, 2, 3, 4]);
            (carried[12], carried[13]) = ((5 + self.options as u8) << 4, self.flags);
            carried[14..16].copy_from_slice(&[5, 6]);
            carried[20..20 + 4 * self.options].fill(1);
        } else {
            let len = carried.len() as u16;
            carried[4..6].copy_from_slice(&len.to_be_bytes());
        }
        let pseudo = pseudo(&ip[12..20], ip[9], carried.len());
        carried[offset..][..2].copy_from_slice(&pseudo.to_be_bytes());
        [&virtio.bytes()[..], &packet].concat()
    }
}

fn sent() -> impl Strategy<Value = Sent> {
    let flags = prop::sample::select(vec![ACK, ACK | PSH, ACK | FIN, ACK | PSH | FIN, ACK | CWR, ACK | 0x40]);
    let ip = (prop::sample::select(vec![0u8, 2, 3, 0xb9]), any::<u16>(), any::<bool>());
    let payload = prop_oneof![0usize..3000, 0usize..30_000, 65_000usize..65_400];
    (any::<bool>(), ip, 0u16..3, any::<u32>(), flags, 0usize..=10, payload, 500usize..2000).prop_map(
        |(tcp, (service, id, dont_fragment), port, sequence, flags, options, payload, size)| Sent {
            tcp,
            service,
            id,
            dont_fragment,
            port,
            sequence,
            flags,
            options,
            payload: payload.min(65_535 - if tcp { 40 + 4 * options } else { 28 }),
            size,
        },
    )
}

/// Packets of TCP, without anything special.
fn plain(payload: usize) -> Sent {
    Sent {
        tcp: true,
        service: 2,
        id: 7,
        dont_fragment: true,
        port: 1,
        sequence: u32::MAX - 2000,
        flags: ACK | PSH,
        options: 3,
        payload,
        size: 1448,
    }
}

fn cut(frame: &[u8]) -> Vec<Vec<u8>> {
    let parts = Parts::of(frame).unwrap();
    let part = |part| {
        let mut frame = vec![1, 2, 3];
        parts.put(part, &mut frame);
        assert_eq!(frame.len(), VIRTIO + parts.len(part));
        frame
    };
    (0..parts.count()).map(part).collect()
}

/// What is written for a run.
fn joined(run: &Run, frames: &[Vec<u8>]) -> Vec<u8> {
    let first = &frames[run.packets[0]];
    let Some(mut whole) = run.head(&first[VIRTIO..]) else { return first.clone() };
    for place in &run.packets {
        whole.extend_from_slice(&frames[*place][VIRTIO + run.headers()..]);
    }
    whole
}

fn runs_of(frames: &[Vec<u8>]) -> Vec<Run> {
    runs(frames.iter().map(|frame| &**frame))
}

/// As on a wire; of what must not be fragmented without the identification, which means nothing.
fn on_the_wire(mut frame: Vec<u8>) -> Vec<u8> {
    finish(&mut frame);
    assert_eq!(frame[..VIRTIO], [0; VIRTIO]);
    let mut packet = frame.split_off(VIRTIO);
    if packet[6] & 0x40 != 0 {
        packet[4..6].fill(0);
        set_ip(&mut packet[..20]);
    }
    packet
}

fn right(packet: &[u8]) -> bool {
    let (ip, carried) = packet.split_at(20);
    let whole = usize::from(u16::from_be_bytes([ip[2], ip[3]])) == packet.len();
    let pseudo = pseudo(&ip[12..20], ip[9], carried.len());
    whole && sum(ip, 0) == u16::MAX && sum(carried, pseudo.into()) == u16::MAX
}

proptest! {
    #[test]
    fn parts_are_right_and_make_the_whole(sent in sent()) {
        let frame = sent.frame();
        let parts = cut(&frame);
        prop_assert_eq!(parts.len(), sent.payload.div_ceil(sent.size).max(1));
        let payloads: Vec<u8> =
            parts.iter().flat_map(|part| part[VIRTIO + sent.headers()..].to_vec()).collect();
        prop_assert_eq!(&payloads, &frame[VIRTIO + sent.headers()..]);
        for (place, part) in parts.iter().enumerate() {
            let packet = &part[VIRTIO..];
            if sent.tcp {
                let (first, last) = (place == 0, place + 1 == parts.len());
                let mut flags = sent.flags;
                flags &= !if first { 0 } else { CWR };
                flags &= !if last { 0 } else { FIN | PSH };
                prop_assert_eq!(packet[33], flags);
                let sequence = sent.sequence.wrapping_add((place * sent.size) as u32);
                prop_assert_eq!(&packet[24..28], &sequence.to_be_bytes());
            }
            prop_assert_eq!(&packet[4..6], &sent.id.wrapping_add(place as u16).to_be_bytes());
            let mut part = part.clone();
            finish(&mut part);
            prop_assert!(right(&part[VIRTIO..]));
        }
    }

    #[test]
    fn cut_and_joined_is_the_same(mut sent in sent(), made in any::<bool>()) {
        sent.flags &= ACK | PSH;
        let frame = sent.frame();
        let mut parts = cut(&frame);
        // Checksums that are made are looked at, and left to be made again.
        if made {
            parts.iter_mut().for_each(|part| finish(part));
        }
        let runs = runs_of(&parts);
        prop_assert_eq!(runs.len(), 1);
        if parts.len() > 1 {
            prop_assert_eq!(joined(&runs[0], &parts), frame);
        }
    }

    #[test]
    fn joined_and_cut_is_the_same(
        sent in prop::collection::vec(sent(), 1..6),
        order in prop::collection::vec(any::<prop::sample::Index>(), 100),
        lost in prop::collection::vec(any::<prop::sample::Index>(), 10),
    ) {
        let mut queues: Vec<_> =
            sent.iter().map(|sent| cut(&sent.frame()).into_iter().take(20).collect::<Vec<_>>()).collect();
        for lost in lost {
            let queue = lost.index(queues.len());
            if queues[queue].len() > 1 {
                let place = lost.index(queues[queue].len());
                queues[queue].remove(place);
            }
        }
        let mut frames = Vec::new();
        for next in order {
            let queue = next.index(queues.len());
            if !queues[queue].is_empty() {
                frames.push(queues[queue].remove(0));
            }
        }
        let runs = runs_of(&frames);
        let mut places: Vec<_> = runs.iter().flat_map(|run| run.packets.clone()).collect();
        for protocol in [TCP, UDP] {
            for port in 0..3u8 {
                let of = |packet: &&Vec<u8>| packet[9] == protocol && packet[21] == port;
                let before: Vec<_> = frames.iter().cloned().map(on_the_wire).collect();
                let after: Vec<_> =
                    runs.iter().flat_map(|run| cut(&joined(run, &frames))).map(on_the_wire).collect();
                let [before, after] =
                    [&before, &after].map(|all| all.iter().filter(of).collect::<Vec<_>>());
                prop_assert_eq!(before, after);
            }
        }
        places.sort_unstable();
        prop_assert_eq!(places, (0..frames.len()).collect::<Vec<_>>());
    }

    #[test]
    fn a_wrong_bit_stays_wrong(bit in 0usize..8 * (32 + 1448), place in 0usize..3) {
        let mut parts = cut(&plain(3 * 1448).frame());
        finish(&mut parts[place]);
        parts[place][VIRTIO + 20 + bit / 8] ^= 1 << (bit % 8);
        for run in runs_of(&parts) {
            prop_assert!(!run.packets.contains(&place) || run.packets.len() == 1);
        }
    }

    #[test]
    fn nonsense_is_refused_or_cut(
        mut frame in prop::collection::vec(any::<u8>(), 0..200),
        kind in prop::sample::select(vec![0u8, 1, 5, 0x81]),
        protocol in prop::sample::select(vec![TCP, UDP]),
        at in prop::collection::vec(0u16..100, 4),
    ) {
        if frame.len() >= VIRTIO + 20 {
            frame[1] = kind;
            for (field, value) in at.into_iter().enumerate() {
                frame[2 + 2 * field..][..2].copy_from_slice(&value.to_ne_bytes());
            }
            frame[VIRTIO] = 0x40 | frame[VIRTIO] & 7;
            frame[VIRTIO + 9] = protocol;
            let len = (frame.len() - VIRTIO) as u16;
            frame[VIRTIO + 2..VIRTIO + 4].copy_from_slice(&len.to_be_bytes());
        }
        if Parts::of(&frame).is_some() {
            let mut parts = cut(&frame);
            runs_of(&parts);
            parts.iter_mut().for_each(|part| finish(part));
        }
    }
}

#[test]
fn what_differs_goes_alone() {
    let two = cut(&plain(2 * 1448).frame());
    let sizes = |second: &dyn Fn(&mut Vec<u8>)| {
        let mut frames = two.clone();
        second(&mut frames[1]);
        // What is changed is right but for that.
        let (header, body) = frames[1].split_at_mut(VIRTIO + 20);
        set_ip(&mut header[VIRTIO..]);
        let pseudo = pseudo(&header[VIRTIO + 12..], header[VIRTIO + 9], body.len());
        if body.len() > 20 {
            body[TCP_CHECKSUM..TCP_CHECKSUM + 2].copy_from_slice(&pseudo.to_be_bytes());
        }
        runs_of(&frames).iter().map(|run| run.packets.len()).collect::<Vec<_>>()
    };
    assert_eq!(sizes(&|_| {}), [2]);
    assert_eq!(sizes(&|frame| frame[VIRTIO + 4] ^= 1), [2], "an identification that means nothing");
    // Offsets in the packet: IP's service, flags, lifetime, addresses; TCP's port, sequence, acknowledgement, reserved bits,
    // flags, window, urgent pointer, options.
    for at in [1, 6, 8, 12, 19, 21, 24, 27, 28, 34, 35, 39, 41, 51] {
        assert_eq!(sizes(&|frame| frame[VIRTIO + at] ^= 0x10), [1, 1], "byte {at}");
    }
    assert_eq!(sizes(&|frame| frame[VIRTIO + 32] |= 1), [1, 1], "accurate ECN");
    for flag in [FIN, 2, 4, 0x20, 0x40, CWR] {
        assert_eq!(sizes(&|frame| frame[VIRTIO + 33] |= flag), [1, 1], "flag {flag:x}");
    }
    for fragment in [0x20, 1] {
        assert_eq!(sizes(&|frame| frame[VIRTIO + 6] = fragment), [1, 1], "a fragment");
    }
    assert_eq!(sizes(&|frame| frame[VIRTIO + 9] = 1), [1, 1], "ICMP");
    assert_eq!(sizes(&|frame| frame[VIRTIO + 9] = UDP), [1, 1]);
}

#[test]
fn runs_end_with_what_is_shorter_and_with_a_push() {
    let sizes =
        |frames: &[Vec<u8>]| runs_of(frames).iter().map(|run| run.packets.clone()).collect::<Vec<_>>();
    let next = |sequence: usize, payload, flags| {
        let sequence = plain(0).sequence.wrapping_add(sequence as u32);
        Sent { sequence, flags, ..plain(payload) }.frame()
    };
    let full = next(0, 1448, ACK);
    assert_eq!(sizes(&[full.clone(), next(1448, 100, ACK), next(1548, 100, ACK)]), [vec![0, 1], vec![2]]);
    assert_eq!(sizes(&[next(0, 1448, ACK | PSH), next(1448, 1448, ACK)]), [[0], [1]]);
    assert_eq!(
        sizes(&[next(0, 100, ACK), next(100, 1448, ACK)]),
        [[0], [1]],
        "none is longer than the first"
    );
    assert_eq!(sizes(&[full.clone(), full.clone()]), [[0], [1]], "a duplicate");
    assert_eq!(sizes(&[full.clone(), next(2896, 1448, ACK)]), [[0], [1]], "one is missing");
    assert_eq!(sizes(&[next(0, 0, ACK), next(0, 0, ACK)]), [[0], [1]], "acknowledgements");
    let most = (0..50).map(|place| next(1448 * place, 1448, ACK)).collect::<Vec<_>>();
    assert_eq!(runs_of(&most).iter().map(|run| run.packets.len()).collect::<Vec<_>>(), [45, 5], "64 KiB");
}

#[test]
fn flows_are_joined_side_by_side_but_not_around_what_is_of_none() {
    let [one, two] = [1, 2].map(|port| cut(&Sent { port, ..plain(3 * 1448) }.frame()));
    let mut mixed: Vec<_> = one.iter().zip(&two).flat_map(|(a, b)| [a.clone(), b.clone()]).collect();
    let places = |frames: &[Vec<u8>]| runs_of(frames).into_iter().map(|run| run.packets).collect::<Vec<_>>();
    assert_eq!(places(&mixed), [[0, 2, 4], [1, 3, 5]]);
    // With an option in IP: nobody looks for its ports.
    let mut odd = one[0].clone();
    odd[VIRTIO] = 0x46;
    mixed.insert(3, odd);
    assert_eq!(places(&mixed), [vec![0, 2], vec![1], vec![3], vec![4, 6], vec![5]]);
}

#[test]
fn udp_counts_identifications_only_where_they_mean_something_and_has_a_checksum() {
    let datagram = |id, dont_fragment| Sent { tcp: false, id, dont_fragment, ..plain(1200) }.frame();
    let count = |frames: &[Vec<u8>]| runs_of(frames).len();
    assert_eq!(count(&[datagram(0, true), datagram(0, true)]), 1);
    assert_eq!(count(&[datagram(u16::MAX, false), datagram(0, false)]), 1);
    assert_eq!(count(&[datagram(5, false), datagram(5, false)]), 2);
    let bare = || {
        let mut frame = datagram(0, true);
        frame[..VIRTIO].fill(0);
        frame[VIRTIO + 26..VIRTIO + 28].fill(0);
        frame
    };
    assert_eq!(count(&[bare(), bare()]), 2);
}

#[test]
fn a_udp_checksum_of_zero_is_sent_as_all_ones() {
    let mut frame = Sent { tcp: false, ..plain(2) }.frame();
    let at = VIRTIO + 28;
    frame[at..].fill(0);
    let mut probe = frame.clone();
    finish(&mut probe);
    // What makes the sum all ones.
    let checksum = [probe[VIRTIO + 26], probe[VIRTIO + 27]];
    frame[at..].copy_from_slice(&checksum);
    finish(&mut frame);
    assert_eq!(frame[VIRTIO + 26..VIRTIO + 28], [0xff, 0xff]);
    assert!(right(&frame[VIRTIO..]));
}

#[test]
fn what_is_not_asked_for_is_refused() {
    let frame = plain(3000).frame();
    let refused = |at: usize, value: u8| {
        let mut frame = frame.clone();
        frame[at] = value;
        Parts::of(&frame).is_none()
    };
    assert!(!refused(1, 1));
    // Fragments of UDP (3), IPv6 (4), with ECN (0x81); no size; another protocol; an IP header that is too short.
    assert!(refused(1, 3) && refused(1, 4) && refused(1, 0x81) && refused(VIRTIO + 9, UDP));
    assert!(refused(VIRTIO, 0x44) && refused(VIRTIO, 0x65) && refused(VIRTIO + 32, 0x40));
    let mut none = frame.clone();
    none[4..6].fill(0);
    assert!(Parts::of(&none).is_none());
    assert!(Parts::of(&frame[..VIRTIO - 1]).is_none());
    assert!(Parts::of(&frame[..frame.len() - 1]).is_none(), "the end is missing");
}
