//! A disk that fills up. Needs the right to mount; says so and passes if that is missing.

use std::path::PathBuf;
use std::process::Command;

use super::trees::{assert_same, look};
use super::*;

/// A small file system of its own, unmounted when dropped.
struct Small(PathBuf);

impl Small {
    fn mount(at: PathBuf, bytes: u64) -> Option<Self> {
        let size = format!("size={bytes}");
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&at).output();
        done.is_ok_and(|d| d.status.success()).then_some(Self(at))
    }

    fn resize(&self, bytes: u64) {
        let options = format!("remount,size={bytes}");
        assert!(Command::new("mount").args(["-o", &options]).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_ends_the_attempt_and_not_the_job() {
    let (source, ground) = (temp(), Ground::new());
    (0..8).for_each(|n| std::fs::write(source.path().join(format!("f{n}")), noise(n, 1 << 20)).unwrap());
    (0..80).for_each(|n| std::fs::write(source.path().join(format!("s{n}")), noise(n, 9000)).unwrap());
    let Some(disk) = Small::mount(ground.dir.path().to_owned(), 5 << 20) else {
        println!("SKIPPED: mounting a small file system is not permitted here");
        return;
    };
    let sent = Source::contents(source.path());
    for seed in 0..3 {
        let (end, _) = ground.attempt(&sent, seed, usize::MAX);
        assert!(matches!(end, End::Failed(e) if e.code() == Code::NoSpace));
        assert_eq!(look(ground.dir.path()).keys().filter(|k| !k.starts_with(".metra")).count(), 0);
    }
    disk.resize(32 << 20);
    let (report, told) = ground.land(&sent);
    assert_eq!(report.failed, 0);
    assert!((told.stats.received as usize) < sent.data.len(), "what was durable is not asked for again");
    assert_same(&look(source.path()), &look(ground.dir.path()));
}

#[test]
fn another_file_system_below_the_root_is_refused_at_the_beginning() {
    let mut ground = Ground::new();
    let below = ground.dir.path().join("mounted");
    std::fs::create_dir(&below).unwrap();
    let Some(_disk) = Small::mount(below, 1 << 20) else {
        println!("SKIPPED: mounting a small file system is not permitted here");
        return;
    };
    for dest in ["mounted", "mounted/not/there/yet"] {
        ground.dest = dest.into();
        let error = ground.open().err().unwrap();
        assert!(error.to_string().contains("another file system"), "{error}");
        assert!(!ground.has(".metra"));
    }
    // An entry that lands there all the same gets no name, and the others do.
    ground.dest = String::new();
    let (report, _) = ground.land(&Source::default().small("mounted/f", b"1").small("f", b"2"));
    assert_eq!((report.entries, report.failed), (1, 1));
}
