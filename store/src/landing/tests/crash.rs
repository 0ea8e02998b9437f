//! Crashes of the machine, which lose or spoil whatever was not synced, and crashes in the middle of the steps that give
//! names or set files aside.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use metra_core::id::EntryIndex;
use proptest::prelude::*;

use super::trees::{Node, Tree, assert_same, edit, grow, look};
use super::*;

/// Spoils every file that is not what it was when it was last synced.
fn cut_power(root: &Path, synced: &Tree, dice: &mut Dice) {
    for (name, now) in look(root) {
        let before = synced.get(&name);
        let Node::File { content, .. } = now else { continue };
        let old = match before {
            Some(Node::File { content, .. }) => Some(content),
            _ => None,
        };
        if old == Some(&content) {
            continue;
        }
        let path = root.join(&name);
        match (dice.roll(5), old) {
            (0, None) => fs::remove_file(path).unwrap(),
            (0, Some(old)) => overwrite(&path, old),
            // What was appended has its length and no bytes.
            (1, old) => {
                let kept = old.map_or(0, Vec::len).min(content.len());
                let mut zeroed = content.clone();
                if old.is_none_or(|old| content.starts_with(old)) {
                    zeroed[kept..].fill(0);
                }
                overwrite(&path, &zeroed);
            }
            // Some pages got through, others did not.
            (2 | 3, old) => {
                let mut mixed = content.clone();
                for (number, page) in mixed.chunks_mut(4096).enumerate() {
                    if dice.roll(2) == 0 {
                        let start = number * 4096;
                        for (i, byte) in page.iter_mut().enumerate() {
                            *byte = old.and_then(|old| old.get(start + i)).copied().unwrap_or(0);
                        }
                    }
                }
                overwrite(&path, &mixed);
            }
            _ => {}
        }
    }
}

fn overwrite(path: &Path, content: &[u8]) {
    // Its mode does not matter to root; to others it does.
    let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o600));
    fs::write(path, content).unwrap();
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn power_cuts(seed in any::<u64>(), cuts in prop::collection::vec((1usize..150, any::<bool>()), 1..5)) {
        let (source, ground) = (temp(), Ground::new());
        let mut dice = Dice::new(seed);
        grow(source.path(), &mut dice);
        for (steps, edited) in cuts {
            let sent = Source::contents(source.path());
            let root = ground.dir.path();
            // What the first attempt finds is on the disk: what an earlier one left has survived a crash.
            let mut synced = look(root);
            let landing = ground.open().unwrap();
            let mut attempt = Attempt::new(&landing, &sent);
            attempt.without_finish = true;
            attempt.on_sync = Box::new(|| synced = look(root));
            attempt.run(&mut dice, steps);
            drop(landing);
            cut_power(root, &synced, &mut dice);
            if edited {
                edit(source.path(), &mut dice);
            }
        }
        let (end, _) = ground.attempt(&Source::contents(source.path()), seed, usize::MAX);
        prop_assert_eq!(end.finished().failed, 0);
        assert_same(&look(source.path()), &look(ground.dir.path()));
    }

    /// Any of the names may have been given when the machine stopped: renames are not ordered on every file system.
    #[test]
    fn power_cuts_while_names_are_given(
        seed in any::<u64>(),
        never in any::<bool>(),
        edited in any::<bool>(),
        again in any::<bool>(),
    ) {
        let (source, mut ground) = (temp(), Ground::new());
        let mut dice = Dice::new(seed);
        grow(source.path(), &mut dice);
        let sent = Source::contents(source.path());
        if never {
            ground.overwrite = Overwrite::Never;
        }
        for _ in 0..1 + usize::from(again) {
            let landing = ground.receive(&sent);
            landing.journal.finishing().unwrap();
            give_some_names(&landing, &sent, &mut dice);
        }
        if edited && !never {
            edit(source.path(), &mut dice);
        }
        let sent = Source::contents(source.path());
        let (report, told) = ground.land(&sent);
        prop_assert_eq!(report.failed, 0, "{:?}", told.statuses);
        if !edited {
            prop_assert_eq!(told.stats.received_bytes > 0, told.stats.received > 0);
        }
        let mut found = look(ground.dir.path());
        let expected = look(source.path());
        if edited {
            // What has lost its source since is somebody else's business.
            found.retain(|name, _| expected.contains_key(name));
        }
        assert_same(&expected, &found);
    }
}

/// Does what the end of a job does, for entries drawn at random.
fn give_some_names(landing: &TreeLanding, sent: &Source, dice: &mut Dice) {
    let entries = sent.records.iter().filter_map(|r| match r {
        Record::Entry(entry) => Some(entry),
        _ => None,
    });
    for (index, entry) in entries.enumerate() {
        let index = EntryIndex(index as u32);
        if dice.roll(2) == 0 || landing.fate(index) != crate::landing::plan::Fate::Write {
            continue;
        }
        let path = landing.place.path(&entry.path);
        let (parent, name) = crate::beneath::split(&path);
        landing.root.make_dir(parent).unwrap();
        match &entry.kind {
            EntryKind::Directory => drop(landing.root.make_dir(&path).unwrap()),
            EntryKind::Symlink { target } => {
                if std::os::unix::fs::symlink(target, landing.root.join(&path)).is_ok() {
                    let meta = Meta { mode: None, mtime: entry.mtime };
                    meta.apply_to_link(landing.root.dir(parent).unwrap(), name).unwrap();
                }
            }
            EntryKind::File { size } => {
                let meta = Meta { mode: entry.mode, mtime: entry.mtime };
                if *size == 0 {
                    landing.staging.write_whole(index, &[], meta).unwrap();
                }
                let Some(file) = landing.staging.existing(index).unwrap() else { continue };
                file.set_len(*size).unwrap();
                meta.apply(&file, None).unwrap();
                let (home, staged) = landing.staging.home(index).unwrap();
                let dir = landing.root.dir(parent).unwrap();
                rustix::fs::renameat(home, staged, dir, name).unwrap();
            }
            EntryKind::Stream => {}
        }
    }
}

#[test]
fn crashes_between_the_steps_of_setting_aside() {
    for steps in 0..4 {
        let (source, ground) = (temp(), Ground::new());
        let write = |name: &str, seed| fs::write(source.path().join(name), noise(seed, 2 << 20)).unwrap();
        (0..6).for_each(|n| write(&format!("f{n}"), n));
        drop(ground.receive(&Source::contents(source.path())));
        write("f2", 99);
        let landing = ground.open().unwrap();
        let dir = ground.staging();
        for step in 0..steps {
            match step {
                0 => landing.journal.cut(ChunkIndex(3)).unwrap(),
                1 => landing.staging.set_aside(EntryIndex(2)).unwrap(),
                _ => drop(fs::copy(dir.join("manifest"), dir.join("old/manifest")).unwrap()),
            }
        }
        drop(landing);
        let (report, _) = ground.land(&Source::contents(source.path()));
        assert_eq!(report.failed, 0);
        assert_same(&look(source.path()), &look(ground.dir.path()));
    }
}

#[test]
fn crashes_between_the_steps_of_tidying_up() {
    for forgotten in [false, true] {
        for removed in [false, true] {
            let (source, ground) = (temp(), Ground::new());
            grow(source.path(), &mut Dice::new(3));
            let sent = Source::contents(source.path());
            let landing = ground.receive(&sent);
            let staging = ground.staging();
            let kept = temp();
            let copy = |from: &Path, to: &Path| {
                assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
            };
            copy(&staging.join("manifest"), &kept.path().join("manifest"));
            let row = ground.catalogue.jobs().unwrap().remove(0);
            let durable = ground.catalogue.job_durable_set(row.id).unwrap();
            drop(landing);
            ground.land(&sent);
            // As if the last steps had not been taken.
            if !removed {
                fs::create_dir_all(staging.join("files/0")).unwrap();
                copy(&kept.path().join("manifest"), &staging.join("manifest"));
            }
            if !forgotten {
                let row = ground
                    .catalogue
                    .job_open("u", &ground.target().key, &staging, SystemTime::now())
                    .unwrap();
                ground.catalogue.job_set_durable(row.id, &durable).unwrap();
            }
            let (report, told) = ground.land(&sent);
            assert_eq!((report.failed, told.stats.received), (0, 0));
            assert_same(&look(source.path()), &look(ground.dir.path()));
        }
    }
}

/// The child of the next test: lands a tree, until it is killed.
#[test]
#[ignore = "the child process of the test after it, which starts it"]
fn land_until_killed() {
    let Ok(dir) = std::env::var("METRA_TEST_LAND") else { return };
    let dir = Path::new(&dir);
    let ground = Ground::new();
    let catalogue = Arc::new(Catalogue::open(&dir.join("catalogue"), SystemTime::now()).unwrap());
    let target = TreeTarget { root: dir.join("root"), ..ground.target() };
    let sent = Source::contents(&dir.join("source"));
    fs::write(dir.join("ready"), b"").unwrap();
    let landing = TreeLanding::open(target, catalogue).unwrap();
    Attempt::new(&landing, &sent).run(&mut Dice::new(u64::from(std::process::id())), usize::MAX).0.finished();
}

#[test]
fn killed_at_any_time() {
    let dir = temp();
    let (source, root) = (dir.path().join("source"), dir.path().join("root"));
    fs::create_dir(&source).unwrap();
    fs::create_dir(&root).unwrap();
    grow(&source, &mut Dice::new(1));
    for n in 0..400 {
        fs::write(source.join(format!("s{n}")), noise(n, 200 + n as usize)).unwrap();
    }
    let expected = look(&source);
    let mut dice = Dice::new(42);
    let child = || {
        let _ = fs::remove_file(dir.path().join("ready"));
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "landing::tests::crash::land_until_killed", "--ignored"])
            .env("METRA_TEST_LAND", dir.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        while !dir.path().join("ready").exists() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        child
    };
    let (mut killed, mut begun) = (0, 0);
    for _ in 0..12 {
        let mut child = child();
        std::thread::sleep(Duration::from_micros(dice.roll(60_000)));
        child.kill().unwrap();
        killed += u32::from(!child.wait().unwrap().success());
        // Under a final name: nothing, or all of it.
        let mut found = look(&root);
        found.retain(|name, node| !name.starts_with(".metra") && matches!(node, Node::File { .. }));
        begun += u32::from(!found.is_empty());
        for (name, node) in &found {
            assert_eq!(expected.get(name), Some(node), "{name}");
        }
        // Every other time from the beginning.
        if dice.roll(2) == 0 {
            fs::remove_dir_all(&root).unwrap();
            fs::create_dir(&root).unwrap();
        }
    }
    assert!(child().wait().unwrap().success());
    assert_same(&expected, &look(&root));
    println!("killed {killed} times, {begun} times while or after names were given");
}
