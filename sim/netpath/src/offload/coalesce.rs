//! Joins packets of a flow that are given at the same time, as kernels do when they receive (generic receive offload): the
//! receiving kernel then has its work once for all of them.
//!
//! A run is what its receiver could not tell from its packets one by one: what differs in them, other than as counted up,
//! goes alone. The link has dealt with every packet before.

use super::checksum::{pseudo, set_ip, sum};
use super::virtio::{Kind, VIRTIO, Virtio};
use super::{ACK, PSH, TCP, TCP_CHECKSUM, UDP, UDP_CHECKSUM};

/// Packets that can be given as one: they follow each other in a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// Which: their places among those that were looked at, in ascending order; at least one.
    pub(crate) packets: Vec<usize>,
    flow: Option<Flow>,
    /// The last packet, if it and more can be joined.
    last: Option<Segment>,
    /// Payload of every packet but the last. Bytes.
    size: usize,
    /// Payload of all of them. Bytes.
    payload: usize,
}

/// The runs of frames that are given together, none of which is to be cut. Of each flow they have the order of the frames;
/// packets of one flow may come before those of another that they came after.
pub(crate) fn runs<'f>(frames: impl IntoIterator<Item = &'f [u8]>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    // Packets before one that is of no flow stay before it.
    let mut barrier = 0;
    for (place, frame) in frames.into_iter().enumerate() {
        let flow = Flow::of(&frame[VIRTIO..]);
        let segment = flow.as_ref().and_then(|flow| Segment::of(flow, frame));
        if let Some(flow) = &flow {
            let run = runs[barrier..].iter_mut().rev().find(|run| run.flow.as_ref() == Some(flow));
            if run.zip(segment.as_ref()).is_some_and(|(run, segment)| run.join(place, segment)) {
                continue;
            }
        }
        if flow.is_none() {
            barrier = runs.len() + 1;
        }
        let size = segment.as_ref().map_or(0, |segment| segment.payload);
        runs.push(Run { packets: vec![place], flow, last: segment, size, payload: size });
    }
    runs
}

impl Run {
    /// Takes the packet in, if it can be.
    fn join(&mut self, place: usize, segment: &Segment) -> bool {
        let payload = self.payload + segment.payload;
        let joins =
            self.last.as_ref().is_some_and(|last| last.payload == self.size && last.precedes(segment))
                && segment.payload <= self.size
                && segment.headers + payload <= usize::from(u16::MAX);
        if joins {
            self.packets.push(place);
            self.payload = payload;
            self.last = Some(segment.clone());
        }
        joins
    }

    /// What stands before the payloads when the run is written as one frame: the virtio header, and the first packet's
    /// headers with the length of the whole and no checksum of TCP or UDP yet. `first` is the first packet. Nothing, if
    /// there is but one.
    pub(crate) fn head(&self, first: &[u8]) -> Option<Vec<u8>> {
        let (Some(last), Some(flow), true) = (&self.last, &self.flow, self.packets.len() > 1) else {
            return None;
        };
        let tcp = flow.protocol == TCP;
        let (kind, offset) = (if tcp { Kind::Tcp } else { Kind::Udp }, flow.checksum());
        let virtio = Virtio { partial: Some((IP, offset)), kind, headers: last.headers, size: self.size };
        let mut head = [&virtio.bytes(), &first[..last.headers]].concat();
        let (ip, carried) = head[VIRTIO..].split_at_mut(IP);
        let len = carried.len() + self.payload;
        ip[2..4].copy_from_slice(&((IP + len) as u16).to_be_bytes());
        set_ip(ip);
        if tcp {
            carried[13] |= last.pushes;
        } else {
            carried[4..6].copy_from_slice(&(len as u16).to_be_bytes());
        }
        carried[offset..][..2].copy_from_slice(&flow.pseudo(len).to_be_bytes());
        Some(head)
    }

    /// Where the payload of each of the packets begins. Bytes.
    pub(crate) fn headers(&self) -> usize {
        self.last.as_ref().map_or(0, |last| last.headers)
    }
}

/// What packets must have in common to be in order.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Flow {
    protocol: u8,
    /// Of source and destination.
    addresses: [u8; 8],
    ports: [u8; 4],
}

impl Flow {
    /// Nothing for all but whole TCP and UDP packets in IPv4 without options.
    fn of(packet: &[u8]) -> Option<Self> {
        let head: &[u8; IP + 8] = packet.first_chunk()?;
        let protocol = head[9];
        let plain = head[0] == 0x45 && matches!(protocol, TCP | UDP);
        // Neither "more fragments" nor an offset (RFC 791 section 3.1); and no bytes behind the packet.
        let whole = u16::from_be_bytes([head[6], head[7]]) & 0x3fff == 0
            && usize::from(u16::from_be_bytes([head[2], head[3]])) == packet.len();
        (plain && whole).then(|| Self {
            protocol,
            addresses: std::array::from_fn(|i| head[12 + i]),
            ports: std::array::from_fn(|i| head[IP + i]),
        })
    }

    /// Where its packets have the checksum of TCP or UDP, from the end of the IP header. Bytes.
    fn checksum(&self) -> usize {
        if self.protocol == TCP { TCP_CHECKSUM } else { UDP_CHECKSUM }
    }

    /// The sum of the pseudo header with this length of TCP or UDP. Bytes.
    fn pseudo(&self, len: usize) -> u16 {
        pseudo(&self.addresses, self.protocol, len)
    }
}

/// A packet that can be joined with others: it has payload, right checksums, and says nothing that is for it alone.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Segment {
    /// Of IP and TCP or UDP. Bytes.
    headers: usize,
    /// Bytes.
    payload: usize,
    /// The headers' fields that must be the same: of IP version, service and congestion, fragmentation and lifetime; of TCP
    /// acknowledgement, length, flags and window, and options.
    same: [u8; SAME],
    /// Whether its identification means nothing: it must not be fragmented (RFC 6864 section 4).
    atomic: bool,
    id: u16,
    /// TCP's number of its first byte.
    sequence: u32,
    /// TCP's flag PSH, in its place, or nothing.
    pushes: u8,
}

impl Segment {
    /// The packet of the frame is of that flow.
    fn of(flow: &Flow, frame: &[u8]) -> Option<Self> {
        let (virtio, packet) = Virtio::of(frame)?;
        let (ip, carried) = packet.split_at(IP);
        let mut same = [0; SAME];
        same[..2].copy_from_slice(&ip[..2]);
        same[2..5].copy_from_slice(&ip[6..9]);
        let (len, sequence, pushes) = if flow.protocol == TCP {
            let tcp: &[u8; 20] = carried.first_chunk()?;
            let len = usize::from(tcp[12] >> 4) * 4;
            // Also no bits that RFC 9293 reserves: one of them is for congestion (RFC 9768).
            if !(20..=carried.len()).contains(&len) || tcp[12] & 15 != 0 || tcp[13] & !PSH != ACK {
                return None;
            }
            same[5..13].copy_from_slice(&tcp[8..16]);
            same[10] &= !PSH;
            same[13..15].copy_from_slice(&tcp[18..20]);
            same[15..15 + len - 20].copy_from_slice(&carried[20..len]);
            (len, u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]), tcp[13] & PSH)
        } else {
            let len = usize::from(u16::from_be_bytes([carried[4], carried[5]]));
            // Without a checksum nobody knows whether it is right.
            if len != carried.len() || (carried[6..8] == [0, 0] && virtio.partial.is_none()) {
                return None;
            }
            (8, 0, 0)
        };
        let payload = carried.len() - len;
        let right = || match virtio.partial {
            Some(place) => place == (IP, flow.checksum()),
            None => sum(carried, u64::from(flow.pseudo(carried.len()))) == u16::MAX,
        };
        (payload > 0 && sum(ip, 0) == u16::MAX && right()).then(|| Self {
            headers: IP + len,
            payload,
            same,
            atomic: ip[6] & DONT_FRAGMENT != 0,
            id: u16::from_be_bytes([ip[4], ip[5]]),
            sequence,
            pushes,
        })
    }

    /// Whether `next` goes on where this ends, and differs in nothing else.
    fn precedes(&self, next: &Self) -> bool {
        let counted = self.atomic || self.id.wrapping_add(1) == next.id;
        // Of UDP all numbers are 0.
        let tcp = self.headers > IP + 8;
        let follows = !tcp || self.sequence.wrapping_add(self.payload as u32) == next.sequence;
        self.headers == next.headers && self.same == next.same && self.pushes == 0 && counted && follows
    }
}

/// The headers' sizes: of IP without options, and of TCP with as many as there can be. Bytes.
const IP: usize = 20;
const LONGEST_TCP: usize = 60;

/// 5 bytes of IP, and 10 of TCP and its options.
const SAME: usize = 5 + 10 + LONGEST_TCP - 20;

/// In IP's seventh byte.
const DONT_FRAGMENT: u8 = 0x40;
