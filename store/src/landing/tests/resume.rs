//! Attempts that are interrupted, by a crash of the process or of the machine, and those after them.

use std::fs;
use std::os::unix::fs::MetadataExt;

use proptest::prelude::*;

use super::trees::{assert_same, edit, grow, look};
use super::*;

#[test]
fn a_tree_lands_as_it_was_and_leaves_nothing_else() {
    for seed in 0..12 {
        let (source, ground) = (temp(), Ground::new());
        grow(source.path(), &mut Dice::new(seed));
        let (report, told) = ground.land(&Source::contents(source.path()));
        assert_same(&look(source.path()), &look(ground.dir.path()));
        assert_eq!((report.failed, told.statuses), (0, vec![]));
        assert_eq!(report.entries as usize, look(source.path()).len());
        assert!(ground.catalogue.jobs().unwrap().is_empty());
    }
}

#[test]
fn what_was_journaled_is_not_asked_for_again() {
    let (source, ground) = (temp(), Ground::new());
    fs::write(source.path().join("large"), noise(1, 5 << 20)).unwrap();
    (0..50).for_each(|n| fs::write(source.path().join(format!("s{n}")), noise(n, 20_000)).unwrap());
    let sent = Source::contents(source.path());
    drop(ground.receive(&sent));
    let (_, told) = ground.land(&sent);
    assert_eq!(told.stats.received, 0);
    assert_same(&look(source.path()), &look(ground.dir.path()));
}

#[test]
fn a_second_run_finds_everything_unchanged() {
    let (source, ground) = (temp(), Ground::new());
    grow(source.path(), &mut Dice::new(5));
    let sent = Source::contents(source.path());
    ground.land(&sent);
    let inodes = |dir: &std::path::Path| -> Vec<u64> {
        look(dir).keys().map(|name| fs::symlink_metadata(dir.join(name)).unwrap().ino()).collect()
    };
    let before = inodes(ground.dir.path());
    let (report, told) = ground.land(&sent);
    assert_eq!((told.stats.received, report.failed), (0, 0));
    assert!(told.statuses.iter().all(|(_, code)| *code == Code::Ok));
    let files = look(source.path()).values().filter(|n| matches!(n, super::trees::Node::File { .. })).count();
    assert!(told.statuses.len() >= files);
    assert_same(&look(source.path()), &look(ground.dir.path()));
    assert_eq!(inodes(ground.dir.path()).len(), before.len());
}

#[test]
fn a_lost_catalogue_costs_hashing_and_nothing_is_sent_again() {
    let (source, mut ground) = (temp(), Ground::new());
    grow(source.path(), &mut Dice::new(9));
    let sent = Source::contents(source.path());
    drop(ground.receive(&sent));
    ground.catalogue = Arc::new(Catalogue::open_in_memory().unwrap());
    let (_, told) = ground.land(&sent);
    assert_eq!(told.stats.received, 0);
    assert_same(&look(source.path()), &look(ground.dir.path()));
}

#[test]
fn lost_staged_files_are_sent_again_whatever_the_journal_says() {
    for (lost, some) in [("files", true), ("manifest", true), ("", false), ("place", true)] {
        let (source, ground) = (temp(), Ground::new());
        grow(source.path(), &mut Dice::new(9));
        fs::write(source.path().join("more"), noise(77, 300_000)).unwrap();
        let sent = Source::contents(source.path());
        drop(ground.receive(&sent));
        let path = ground.staging().join(lost);
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap()
        } else {
            fs::remove_file(path).unwrap()
        }
        let (_, told) = ground.land(&sent);
        assert_same(&look(source.path()), &look(ground.dir.path()));
        assert_eq!(told.stats.received > 0, lost.is_empty() || lost == "files", "{lost} {some}");
    }
}

/// The journal says durable, the file is gone and is written anew, and the machine crashes before that is synced:
/// whatever stands there then must not be taken for what the journal meant.
#[test]
fn the_journal_forgets_a_chunk_before_its_place_is_written_again() {
    let ground = Ground::new();
    let content = noise(3, 300_000);
    let sent = Source::default().file("f", 300_000).chunk(&content);
    drop(ground.receive(&sent));
    let staged = ground.staging().join("files/0/0");
    fs::remove_file(&staged).unwrap();
    let landing = ground.open().unwrap();
    landing.plan(&sent.records).unwrap();
    drop(landing);
    fs::write(&staged, vec![0; 300_000]).unwrap();
    let (_, told) = ground.land(&sent);
    assert_eq!((told.stats.received, ground.read("f") == content), (1, true));
}

/// A manifest that was lost, and another one in its place: the numbers in the journal mean nothing.
#[test]
fn the_journal_counts_only_for_the_manifest_it_was_made_for() {
    let ground = Ground::new();
    let (old, new) = (noise(1, 300_000), noise(2, 300_000));
    drop(ground.receive(&Source::default().file("f", 300_000).chunk(&old)));
    fs::write(ground.staging().join("manifest"), b"").unwrap();
    let sent = Source::default().file("f", 300_000).chunk(&new);
    // Interrupted once more, so that the new manifest is there when the job is opened.
    let landing = ground.open().unwrap();
    landing.plan(&sent.records).unwrap();
    landing.spool.lock().unwrap().sync().unwrap();
    drop(landing);
    ground.land(&sent);
    assert!(ground.read("f") == new);
}

#[test]
fn files_before_a_change_stay_where_they_are_and_equal_ones_after_it_are_taken_over() {
    let (source, ground) = (temp(), Ground::new());
    let write = |name: &str, seed, len| fs::write(source.path().join(name), noise(seed, len)).unwrap();
    write("a-large", 1, 3 << 20);
    write("b-small", 2, 5000);
    write("c-large", 3, 3 << 20);
    write("d-small", 4, 5000);
    write("e-large", 5, 3 << 20);
    let landing = ground.receive(&Source::contents(source.path()));
    drop(landing);
    let inode = |path: std::path::PathBuf| fs::metadata(path).unwrap().ino();
    let staged = |n: u32| ground.staging().join(format!("files/0/{n}"));
    let (a, e) = (inode(staged(0)), inode(staged(4)));
    write("b-small", 20, 5000);
    write("b-small-2", 21, 5000);
    let sent = Source::contents(source.path());
    let (_, told) = ground.land(&sent);
    assert_same(&look(source.path()), &look(ground.dir.path()));
    assert_eq!(told.stats.received, 1, "the new pack");
    assert_eq!(inode(ground.dir.path().join("a-large")), a);
    assert_eq!(inode(ground.dir.path().join("e-large")), e, "not copied");
}

#[test]
fn a_source_that_became_shorter_or_longer() {
    for shorter in [true, false] {
        let (source, ground) = (temp(), Ground::new());
        fs::write(source.path().join("a"), noise(1, 2 << 20)).unwrap();
        fs::write(source.path().join("b"), noise(2, 2 << 20)).unwrap();
        let both = Source::contents(source.path());
        fs::remove_file(source.path().join("b")).unwrap();
        let one = Source::contents(source.path());
        let (first, second) = if shorter { (both, one) } else { (one, both) };
        drop(ground.receive(&first));
        let (report, _) = ground.land(&second);
        assert_eq!((report.entries, ground.has("b")), if shorter { (1, false) } else { (2, true) });
        assert!(!ground.has(".metra"));
    }
}

#[test]
fn an_insertion_is_copied_from_what_was_set_aside() {
    let (source, ground) = (temp(), Ground::new());
    let content = noise(8, 12 << 20);
    fs::write(source.path().join("f"), &content).unwrap();
    let before = Source::contents(source.path());
    drop(ground.receive(&before));
    let content = [&content[..100], b"a few bytes", &content[100..]].concat();
    fs::write(source.path().join("f"), &content).unwrap();
    let after = Source::contents(source.path());
    assert!(after.data.len() > 6);
    let (_, told) = ground.land(&after);
    assert!(ground.read("f") == content);
    assert_eq!((told.stats.received, told.stats.reused as usize), (1, after.data.len() - 1));
}

#[test]
fn an_older_version_under_the_final_name_is_reused() {
    let (source, ground) = (temp(), Ground::new());
    let content = noise(8, 12 << 20);
    ground.put("f", &content);
    let content = [&content[..6 << 20], b"a few bytes", &content[6 << 20..]].concat();
    fs::write(source.path().join("f"), &content).unwrap();
    let (_, told) = ground.land(&Source::contents(source.path()));
    assert!(ground.read("f") == content);
    assert_eq!(told.stats.received, 1);
}

#[test]
fn a_refused_attempt_leaves_no_trace_unless_there_was_one_before() {
    let ground = Ground::new();
    let sent = Source::default().small("f", b"content");
    ground.open().unwrap().discard();
    assert!(!ground.has(".metra") && ground.catalogue.jobs().unwrap().is_empty());
    drop(ground.receive(&sent));
    ground.open().unwrap().discard();
    let (_, told) = ground.land(&sent);
    assert_eq!(told.stats.received, 0);
}

proptest! {
    #![proptest_config(cases())]

    /// Whatever the tree, and wherever attempts are interrupted, changed or robbed: the last one ends right.
    #[test]
    fn interruptions_of_any_kind(seed in any::<u64>(), stops in prop::collection::vec((0u8..6, 1usize..120), 0..5)) {
        let (source, mut ground) = (temp(), Ground::new());
        let mut dice = Dice::new(seed);
        grow(source.path(), &mut dice);
        if dice.roll(2) == 0 {
            grow(ground.dir.path(), &mut Dice::new(dice.roll(2)));
            // Whatever would be in the way.
            for entry in fs::read_dir(ground.dir.path()).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    fs::remove_dir_all(entry.path()).unwrap();
                } else if source.path().join(entry.file_name()).is_dir() {
                    fs::remove_file(entry.path()).unwrap();
                }
            }
        }
        let mut there = look(ground.dir.path());
        for (kind, steps) in stops {
            let (end, _) = ground.attempt(&Source::contents(source.path()), dice.roll(1 << 40), steps);
            if matches!(end, End::Finished(_)) {
                there = look(ground.dir.path());
                there.retain(|name, _| !name.starts_with(".metra"));
            } else {
                // Not a byte under a final name before the end.
                let mut now = look(ground.dir.path());
                now.retain(|name, _| !name.starts_with(".metra"));
                assert_same(&there, &now);
            }
            let staging = ground.dir.path().join(".metra/jobs");
            match kind {
                0 => ground.catalogue = Arc::new(Catalogue::open_in_memory().unwrap()),
                1 if staging.is_dir() => fs::remove_dir_all(ground.staging()).unwrap(),
                2 if staging.is_dir() => {
                    // A file here and there.
                    let files = look(&staging);
                    for name in files.keys().filter(|_| dice.roll(3) == 0) {
                        let _ = fs::remove_file(staging.join(name));
                    }
                }
                3 => edit(source.path(), &mut dice),
                _ => {}
            }
        }
        let sent = Source::contents(source.path());
        let (end, told) = ground.attempt(&sent, dice.roll(1 << 40), usize::MAX);
        prop_assert_eq!(end.finished().failed, 0, "{:?}", told.statuses);
        let mut found = look(ground.dir.path());
        let expected = look(source.path());
        found.retain(|name, _| expected.contains_key(name) || !there.contains_key(name));
        assert_same(&expected, &found);
    }
}
