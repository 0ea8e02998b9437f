//! `metra get`.

use std::path::{Component, Path, PathBuf};

use metra_client::{Client, ClientError, GetRequest, GetTo, Url};
use metra_core::manifest::Entry;
use metra_core::wire::Symlinks;
use serde_json::json;

use super::listing::Listing;
use super::select::{self, Selection};
use super::{session, source};
use crate::args::{GetArgs, Target};
use crate::exit::{Exit, Failure};
use crate::progress::Way;
use crate::report::Reporter;

pub(super) fn run(args: GetArgs) -> Result<Exit, Failure> {
    let request = plan(&args)?;
    // There is at least one: the parser sees to it.
    let address = &args.sources[0].address;
    if args.tree.dry_run {
        return dry_run(&args, &request);
    }
    let to_stdout = request.to == GetTo::Stdout;
    let reporter = Reporter::new(Way::Get, &args.output, to_stdout);
    let what = json!({ "from": args.sources.iter().map(|url| format!("mtp://{address}/{}", url.path)).collect::<Vec<_>>() });
    session::transfer(&args.connect, address, &reporter, what, async move |client, watch| {
        client.get(request, watch).await
    })
}

fn plan(args: &GetArgs) -> Result<GetRequest, Failure> {
    if args.sources.iter().any(|url| url.address != args.sources[0].address) {
        return Err(Failure::usage("all sources must be on the same gateway; use one command for each"));
    }
    // Understood here first, so that a typing error is found before a gateway is asked.
    args.tree.shape.filters()?;
    let (paths, filters) = match &args.tree.files_from {
        None => {
            let paths = args.sources.iter().map(|url| url.path.clone()).collect();
            (paths, args.tree.shape.filters.rules.clone())
        }
        Some(list) => of_list(args, list)?,
    };
    Ok(GetRequest {
        to: to(&args.dest, &paths)?,
        paths,
        filters,
        symlinks: args.tree.shape.symlinks(),
        keep: args.tree.shape.keep(),
        overwrite: args.tree.overwrite(),
        priority: args.tree.priority(),
    })
}

/// Where to, and whether that is a directory.
fn to(dest: &Target, paths: &[String]) -> Result<GetTo, Failure> {
    match dest {
        Target::Null => Ok(GetTo::Null),
        Target::Stdout if paths.len() > 1 => Err(Failure::usage("only one source can go to standard output")),
        Target::Stdout => Ok(GetTo::Stdout),
        Target::Path { path, slash } => {
            let many = |path: &String| path.is_empty() || path.ends_with('/') || select::is_glob(path);
            let into = *slash || paths.len() > 1 || paths.iter().any(many);
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            if let Some(parent) = parent
                && !parent.is_dir()
            {
                return Err(Failure::new(
                    Exit::NoDirectory,
                    format!("{}: no such directory", parent.display()),
                ));
            }
            // Without the slash at its end, with which a file does not seem to be there.
            let bare: PathBuf = path.components().collect();
            if into && bare.exists() && !bare.is_dir() {
                return Err(Failure::new(Exit::NoDirectory, format!("{}: not a directory", path.display())));
            }
            Ok(GetTo::Path { path: path.clone(), into })
        }
    }
}

/// Filters that admit what a list names, and the directories that lead there.
fn of_list(args: &GetArgs, list: &Path) -> Result<(Vec<String>, Rules), Failure> {
    let [Url { path, .. }] = args.sources.as_slice() else {
        return Err(Failure::usage(
            "with --files-from there is one source, the directory that the list is for",
        ));
    };
    if !args.tree.shape.filters.rules.is_empty() {
        return Err(Failure::usage("metra get takes --files-from or --include and --exclude, not both"));
    }
    let mut rules = Vec::new();
    for path in source::listed(list)? {
        let mut pattern = String::new();
        for component in path.components() {
            if let Component::Normal(name) = component {
                if !pattern.is_empty() {
                    rules.push((true, format!("{pattern}/")));
                }
                pattern = format!("{pattern}/{}", quoted(&name.to_string_lossy()));
            }
        }
        rules.push((true, format!("{pattern}/**")));
        rules.push((true, pattern));
    }
    rules.push((false, "/**".to_owned()));
    // The first that matches decides: what is there again later has no effect.
    let mut seen = std::collections::HashSet::new();
    rules.retain(|rule| seen.insert(rule.clone()));
    if rules.len() > RULES_MAX {
        let message =
            format!("--files-from {}: too many paths for one transfer; use several lists", list.display());
        return Err(Failure::new(Exit::Limit, message));
    }
    Ok((vec![format!("{}/", path.trim_end_matches('/'))], rules))
}

/// Includes (`true`) and excludes, in order.
type Rules = Vec<(bool, String)>;

/// Filters that the protocol allows (`LIST_MAX`).
const RULES_MAX: usize = 4096;

/// A name as a pattern that matches it and nothing else.
fn quoted(name: &str) -> String {
    let mut quoted = String::with_capacity(name.len());
    for c in name.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '{' | '}' | '\\' | ',' | '!') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted
}

/// Lists what would be fetched.
fn dry_run(args: &GetArgs, request: &GetRequest) -> Result<Exit, Failure> {
    let selections = request.paths.iter().map(|path| Selection::new(path, &request.filters));
    let selections = selections.collect::<Result<Vec<_>, _>>()?;
    let skip_links = request.symlinks == Symlinks::Skip;
    let found = session::with_client(&args.connect, &args.sources[0].address, async |client: &Client| {
        let mut found: Vec<(String, Entry)> = Vec::new();
        for selection in &selections {
            let before = found.len();
            for entry in client.list(selection.base(), u32::MAX).await? {
                if let Some(path) = selection.entry(&entry) {
                    found.push((path, entry));
                }
            }
            if found.len() == before && selection.is_glob() {
                let message = format!("{}: nothing matches", selection.pattern());
                return Err(ClientError::new(metra_core::code::Code::NotFound, message));
            }
        }
        Ok(found)
    })?;
    let mut listing = Listing::new(&args.output);
    for (path, entry) in &found {
        let is_link = matches!(entry.kind, metra_core::manifest::EntryKind::Symlink { .. });
        if !(skip_links && is_link) {
            listing.entry(path, entry)?;
        }
    }
    Ok(listing.finish()?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser;
    use metra_store::source::Filters;

    use super::*;
    use crate::args::{Cli, Command};

    fn planned(words: &[&str]) -> Result<GetRequest, Failure> {
        let words = ["metra", "get"].iter().chain(words);
        match Cli::try_parse_from(words).unwrap().command {
            Command::Get(args) => plan(&args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_destination_is_a_directory_where_it_must_be() {
        let into = |words: &[&str]| match planned(words).unwrap().to {
            GetTo::Path { into, .. } => into,
            other => panic!("{other:?}"),
        };
        assert!(!into(&["mtp://h/a", "x"]));
        assert!(into(&["mtp://h/a", "x/"]));
        assert!(into(&["mtp://h/a/", "x"]));
        assert!(into(&["mtp://h/", "x"]));
        assert!(into(&["mtp://h/a*", "x"]));
        assert!(into(&["mtp://h/a", "mtp://h:4443/b", "x"]));
        assert_eq!(planned(&["mtp://h/a", "null:"]).unwrap().to, GetTo::Null);
        assert_eq!(planned(&["mtp://h/a", "-"]).unwrap().to, GetTo::Stdout);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let exit = |words: &[&str]| planned(words).unwrap_err().exit;
        assert_eq!(exit(&["mtp://h/a", "mtp://other/b", "x"]), Exit::Usage);
        assert_eq!(exit(&["mtp://h/a", "mtp://h/b", "-"]), Exit::Usage);
        assert_eq!(exit(&["mtp://h/a", "/absent/x"]), Exit::NoDirectory);
        assert_eq!(exit(&["mtp://h/a", "mtp://h/b", "/dev/null"]), Exit::NoDirectory);
        assert_eq!(exit(&["mtp://h/a", "x", "--include", "[z"]), Exit::Usage);
    }

    #[test]
    fn a_list_becomes_filters() {
        let dir = tempfile::tempdir().unwrap();
        let list = dir.path().join("list");
        std::fs::write(&list, "a/b/c\na/d[1]\ntop\n").unwrap();
        let list = list.to_str().unwrap();
        let request = planned(&["mtp://h/base", "x", "--files-from", list]).unwrap();
        assert_eq!(request.paths, ["base/"]);
        let filters = Filters::new(request.filters).unwrap();
        let admitted = |path: &str, is_directory| filters.admits(path, is_directory);
        assert!(admitted("a", true) && admitted("a/b", true) && admitted("top", false));
        assert!(admitted("a/b/c", false) && admitted("a/b/c/below", false) && admitted("a/d[1]", false));
        assert!(!admitted("a", false), "only as a directory");
        for other in ["x", "a/x", "a/b/x", "a/d1", "x/a/b/c", "a/x/top"] {
            assert!(!admitted(other, false) && !admitted(other, true), "{other}");
        }
        let words = ["mtp://h/base", "x", "--files-from", list, "--include", "x"];
        assert_eq!(planned(&words).unwrap_err().exit, Exit::Usage);
    }
}
