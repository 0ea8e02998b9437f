//! Several connections over TCP, where that makes it faster.

use crate::harness::Bed;
use crate::harness::data::MIB;
use crate::harness::office::{File, Office, PORT, Sent};

tests![each_connection_gets_its_part];

/// A network that gives each connection so much: one is slow, and four are four times as fast.
fn each_connection_gets_its_part(bed: &Bed) {
    let office = Office::new(bed);
    bed.firewall().a_part_each(PORT, 1000);
    let rate = |sent: &Sent, mib: u64| (mib * MIB) as f64 / sent.0.elapsed.as_secs_f64();
    let file = File::noise(bed, "alone", 6 * MIB);
    let alone = office.send(&file, "alone", &["--via", "tls", "--connections", "1"]);
    assert_eq!(alone.links(), ["tls"], "{}", alone.0);
    let file = File::noise(bed, "together", 24 * MIB);
    let together = office.send(&file, "together", &["--via", "tls"]);
    let links = together.links();
    // Those that are open at the end; some may have been closed again, as the last chunks need no more.
    assert!(links.iter().all(|link| *link == "tls"), "{}", together.0);
    // It begins with one as well, and measures each for three seconds.
    let (one, several) = (rate(&alone, 6), rate(&together, 24));
    assert!(several > 1.5 * one, "{several:.0} after {one:.0} bytes a second\n{}", together.0);
}
