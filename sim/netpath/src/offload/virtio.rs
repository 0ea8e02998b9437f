//! The header before each packet at a TUN interface: `struct virtio_net_hdr`, virtio 1.2 section 5.1.6, as it was before
//! virtio 1.0, in the byte order of the machine (Documentation/networking/tuntap.rst).

use super::checksum::sum;
use super::{UDP, UDP_CHECKSUM};

/// What it says. By default that the packet is as it will be on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Virtio {
    /// Where the sum for a checksum that is still to be made begins, and where from there the checksum goes; the sum of
    /// the pseudo header is there. The packet is right if that is so. Bytes.
    pub(super) partial: Option<(usize, usize)>,
    pub(super) kind: Kind,
    /// Headers of the packet. A hint, but right when written. Bytes.
    pub(super) headers: usize,
    /// Payload of every packet that this is to be cut into, but for the last. Bytes.
    pub(super) size: usize,
}

/// Whether the packet is to be cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    /// It is not.
    #[default]
    Whole,
    /// TCP in IPv4 (`VIRTIO_NET_HDR_GSO_TCPV4`).
    Tcp,
    /// UDP datagrams, one behind the other (`VIRTIO_NET_HDR_GSO_UDP_L4`, here in IPv4).
    Udp,
}

impl Virtio {
    /// The header and the packet of a frame. Nothing if it is none that was asked for.
    pub(super) fn of(frame: &[u8]) -> Option<(Self, &[u8])> {
        let (header, packet) = frame.split_first_chunk::<VIRTIO>()?;
        let field = |at: usize| usize::from(u16::from_ne_bytes([header[at], header[at + 1]]));
        let partial = (header[0] & NEEDS_CSUM != 0).then(|| (field(6), field(8)));
        if partial.is_some_and(|(start, offset)| start + offset + 2 > packet.len()) {
            return None;
        }
        let kind = match header[1] {
            0 => return Some((Self { partial, ..Self::default() }, packet)),
            TCPV4 => Kind::Tcp,
            UDP_L4 => Kind::Udp,
            _ => return None,
        };
        Some((Self { partial, kind, headers: field(2), size: field(4) }, packet))
    }

    pub(super) fn bytes(&self) -> [u8; VIRTIO] {
        let mut bytes = [0; VIRTIO];
        bytes[0] = if self.partial.is_some() { NEEDS_CSUM } else { 0 };
        bytes[1] = match self.kind {
            Kind::Whole => 0,
            Kind::Tcp => TCPV4,
            Kind::Udp => UDP_L4,
        };
        let (start, offset) = self.partial.unwrap_or_default();
        for (field, value) in [self.headers, self.size, start, offset].into_iter().enumerate() {
            bytes[2 + 2 * field..][..2].copy_from_slice(&(value as u16).to_ne_bytes());
        }
        bytes
    }
}

/// Makes the checksum, if it is still to be made: now a wrong bit is one that the receiver finds. Of a frame that is not to
/// be cut.
pub(crate) fn finish(frame: &mut [u8]) {
    let Some((Virtio { partial: Some((start, offset)), .. }, _)) = Virtio::of(frame) else { return };
    let (virtio, packet) = frame.split_at_mut(VIRTIO);
    let mut checksum = !sum(&packet[start..], 0);
    // RFC 768: a sum of 0 is sent as all ones, for 0 says that there is none.
    if checksum == 0 && packet.get(9) == Some(&UDP) && offset == UDP_CHECKSUM {
        checksum = u16::MAX;
    }
    packet[start + offset..][..2].copy_from_slice(&checksum.to_be_bytes());
    virtio.copy_from_slice(&Virtio::default().bytes());
}

/// The size of the header. Bytes.
pub(crate) const VIRTIO: usize = 10;

const NEEDS_CSUM: u8 = 1;
const TCPV4: u8 = 1;
const UDP_L4: u8 = 5;
