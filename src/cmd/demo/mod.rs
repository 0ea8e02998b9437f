//! `metra demo`: all of it on one machine, in about a minute.
//!
//! ```text
//! gateway (a child) <--- send tree, send one large file (client killed, then again)
//!                   ---> get both back (gateway killed, started again) ---> compare
//!                   <--- send the file by each way: native QUIC, MASQUE, TLS, WebSocket
//! ```
//!
//! Gateway and clients are processes of this same program, so that what is shown is what a user gets. They are ended by
//! their handles, and everything is in one temporary folder.

mod child;
mod compare;
mod place;
mod table;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use metra_store::source::{Root, SourceSpec, list};

use self::child::{Clients, Gateway, Watched};
use self::place::Place;
use self::table::Table;
use super::{session, source};
use crate::args::DemoArgs;
use crate::exit::{Exit, Failure};
use crate::output;

pub(super) fn run(args: DemoArgs) -> Result<Exit, Failure> {
    let started = Instant::now();
    let runtime = session::runtime()?;
    let stop = Stop::default();
    let flag = stop.clone();
    runtime.spawn(async move { flag.set(session::signalled().await) });

    let paths = if args.paths.is_empty() { vec![toolchain()?] } else { args.paths.clone() };
    for path in &paths {
        source::readable(path)?;
        if !path.is_absolute() && path.file_name().is_none() {
            return Err(Failure::usage(format!(
                "{}: give it by a path that ends in its name",
                path.display()
            )));
        }
    }
    let (files, bytes) = size_of(&paths);
    let shown: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    println!(
        "Tree:   {} ({}, {})",
        shown.join(" "),
        output::count(files, "entry", "entries"),
        output::bytes(bytes)
    );
    println!("File:   {} of random bytes", output::bytes(args.size));
    let place = Place::new(2 * bytes + 3 * args.size, args.keep)?;
    println!("Folder: {} ({} free)\n", place.path().display(), output::bytes(place.free()));

    let story = Story { place: &place, paths: &paths, size: args.size, stop: &stop, started };
    let result = story.tell();
    if place.is_kept() {
        println!("\nEverything is still in {}", place.path().display());
    } else {
        place.remove();
    }
    let table = result?;
    print!("\n{table}");
    println!(
        "\nAll that came back is equal to what was sent. It took {}.",
        output::duration(started.elapsed())
    );
    print!("{}", by_hand(&paths[0]));
    Ok(Exit::Ok)
}

/// Set when a signal asks for the end.
#[derive(Clone, Default)]
struct Stop(Arc<AtomicU8>);

impl Stop {
    fn set(&self, exit: Exit) {
        self.0.store(exit.number(), Ordering::Relaxed);
    }

    fn check(&self) -> Result<(), Failure> {
        match self.0.load(Ordering::Relaxed) {
            0 => Ok(()),
            n if n == Exit::Terminated.number() => Err(Failure::new(Exit::Terminated, "interrupted")),
            _ => Err(Failure::new(Exit::Interrupted, "interrupted")),
        }
    }
}

struct Story<'a> {
    place: &'a Place,
    paths: &'a [PathBuf],
    size: u64,
    stop: &'a Stop,
    started: Instant,
}

impl Story<'_> {
    fn tell(&self) -> Result<Table, Failure> {
        let mut table = Table::default();
        let (folder, stop) = (self.place.path(), self.stop);
        let [root, back, state] = ["root", "back", "state"].map(|name| folder.join(name));
        for dir in [&root, &back, &state] {
            std::fs::create_dir(dir).map_err(|e| Failure::io(dir.display(), &e))?;
        }
        let large = folder.join("large");
        self.say("writing the large file");
        place::write_random(&large, self.size, stop)?;

        self.say("starting a gateway on loopback, with a development certificate of its own");
        let mut gateway = Gateway::start(folder, &root, &state, stop)?;
        let clients = Clients { folder, state: &state, stop, via: "auto" };
        let url = |path: &str| format!("mtp://{}/{path}", gateway.address());
        let (tree_url, large_url) = (url("tree/"), url("large"));

        self.say("sending the tree");
        let mut words: Vec<&Path> = self.paths.iter().map(PathBuf::as_path).collect();
        words.push(Path::new(&tree_url));
        table.add("send tree", &clients.run("send", &words, |_| Ok(Watched::Go))?.finished()?);

        self.say("sending the large file, and killing the client in the middle (SIGKILL)");
        let words = [large.as_path(), Path::new(&large_url)];
        let run = clients.run("send", &words, |progress| {
            Ok(if progress.is_half(self.size) { Watched::Kill } else { Watched::Go })
        })?;
        if run.is_killed() {
            table.add(&format!("send large, killed at {} %", run.percent(self.size)), &run);
            self.say("the same command again");
            table.add("send large, again", &clients.run("send", &words, |_| Ok(Watched::Go))?.finished()?);
        } else {
            println!("          it was done before it could be killed: use a larger --size to see it go on");
            table.add("send large", &run.finished()?);
        }

        self.say("getting the tree back");
        let tree_back = back.join("tree");
        let words = [Path::new(&tree_url), tree_back.as_path()];
        table.add("get tree", &clients.run("get", &words, |_| Ok(Watched::Go))?.finished()?);

        self.say("getting the large file back, and killing the gateway in the middle; it is started again, the client goes on");
        let large_back = back.join("large");
        let words = [Path::new(&large_url), large_back.as_path()];
        let mut killed_at = None;
        let run = clients.run("get", &words, |progress| {
            if killed_at.is_none() && progress.is_half(self.size) {
                killed_at = Some(progress.percent(self.size));
                gateway.kill_and_restart(stop)?;
            }
            Ok(Watched::Go)
        })?;
        let name =
            killed_at.map_or("get large".to_owned(), |at| format!("get large, gateway killed at {at} %"));
        table.add(&name, &run.finished()?);

        let nowhere = format!("mtp://{}/null:", gateway.address());
        let words = [large.as_path(), Path::new(&nowhere)];
        for (via, name) in WAYS {
            self.say(&format!("sending the large file over {name} only; it is verified, and not kept"));
            let clients = Clients { via, ..clients };
            let run = clients.run("send", &words, |_| Ok(Watched::Go))?.finished()?;
            table.add(&format!("send large over {name}"), &run);
        }

        self.say("ending the gateway (SIGTERM)");
        gateway.end(stop)?;

        self.say("comparing: names, types, bytes, modes, times, links");
        let mut compared = compare::trees(&large, &large_back, stop)?;
        for path in self.paths {
            let name = path.file_name().unwrap_or_default();
            compared += compare::trees(path, &tree_back.join(name), stop)?;
        }
        println!("          {} are equal", output::count(compared, "entry", "entries"));
        Ok(table)
    }
}

impl Story<'_> {
    /// What comes now, and how much time has passed.
    fn say(&self, text: &str) {
        println!("[{:5.1} s] {text}", self.started.elapsed().as_secs_f64());
    }
}

/// The directory of the Rust toolchain, else that of this program: files that are there on every machine.
fn toolchain() -> Result<PathBuf, Failure> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = std::process::Command::new(rustc).args(["--print", "sysroot"]).output();
    let sysroot = output.ok().filter(|o| o.status.success()).and_then(|o| String::from_utf8(o.stdout).ok());
    let sysroot = sysroot.map(|text| PathBuf::from(text.trim())).filter(|path| path.is_dir());
    // Where a distribution has put it among everything else (`/usr`), its own part of it.
    let own = |sysroot: PathBuf| match sysroot.parent() {
        Some(parent) if parent.parent().is_none() => sysroot.join("lib/rustlib"),
        _ => sysroot,
    };
    let here = || std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
    sysroot
        .map(own)
        .filter(|path| path.is_dir())
        .or_else(here)
        .ok_or_else(|| Failure::usage("there is no Rust toolchain here: name the files to send"))
}

/// Entries and bytes.
fn size_of(paths: &[PathBuf]) -> (u64, u64) {
    let roots = paths.iter().map(|path| Root::Path { path: path.clone(), contents: false });
    let entries = list(&SourceSpec::new(roots.collect())).flatten();
    entries.fold((0, 0), |(files, bytes), entry| (files + 1, bytes + entry.size()))
}

fn by_hand(path: &Path) -> String {
    let exe = std::env::current_exe().unwrap_or_else(|_| "metra".into());
    let exe = exe.display();
    let path = path.display();
    let name = Path::new(&path.to_string()).file_name().unwrap_or_default().display().to_string();
    format!(
        "\nThe same by hand, the first in a terminal of its own:\n  \
         mkdir -p /tmp/metra && {exe} serve --root /tmp/metra\n  \
         {exe} send {path} mtp://127.0.0.1/tree/        (^C, and again: it goes on)\n  \
         {exe} ls -l mtp://127.0.0.1/tree/\n  \
         {exe} get mtp://127.0.0.1/tree/{name} /tmp/metra-back\n  \
         {exe} verify RECEIPT {path}        (receipts are in ~/.local/state/metra/client/receipts)\n"
    )
}

/// How long something that should be quick may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// The ways in, as `--via` and people call them.
const WAYS: [(&str, &str); 5] = [
    ("quic", "QUIC"),
    ("masque", "MASQUE, HTTP/3"),
    ("masque-tcp", "MASQUE, HTTP/2"),
    ("tls", "TLS over TCP"),
    ("ws", "WebSocket"),
];
