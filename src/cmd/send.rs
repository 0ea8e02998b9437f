//! `metra send`.

use metra_client::SendRequest;
use metra_core::wire::Placement;
use metra_store::source::{Root, SourceSpec, list};
use serde_json::json;

use super::listing::Listing;
use super::{session, source};
use crate::args::{SendArgs, Source};
use crate::exit::{Exit, Failure};
use crate::progress::Way;
use crate::report::Reporter;

pub(super) fn run(args: SendArgs) -> Result<Exit, Failure> {
    let plan = plan(&args)?;
    if args.tree.dry_run {
        return dry_run(&args, &plan.spec);
    }
    let reporter = Reporter::new(Way::Send, &args.output, false);
    let what = json!({ "to": format!("mtp://{}/{}", args.dest.address, args.dest.path) });
    let request = SendRequest {
        spec: plan.spec,
        dest: plan.dest,
        placement: plan.placement,
        overwrite: args.tree.overwrite(),
        delete_source: args.delete_source,
        priority: args.tree.priority(),
    };
    session::transfer(&args.connect, &args.dest.address, &reporter, what, async move |client, watch| {
        client.send(request, watch).await
    })
}

#[derive(Debug)]
struct Plan {
    spec: SourceSpec,
    dest: String,
    placement: Placement,
}

fn plan(args: &SendArgs) -> Result<Plan, Failure> {
    let path = args.dest.path.as_str();
    let from_stdin = args.sources.iter().filter(|source| **source == Source::Stdin).count();
    let list_from_stdin = args.tree.files_from.as_deref() == Some("-".as_ref());
    if from_stdin + usize::from(list_from_stdin) > 1 {
        return Err(Failure::usage("standard input can be read only once"));
    }
    // Standard input has no name but the one that it gets.
    let name = path.rsplit('/').next().unwrap_or_default();
    if from_stdin > 0 && name.is_empty() {
        return Err(Failure::usage("standard input needs a name: mtp://HOST/PATH/NAME"));
    }
    let mut roots = Vec::new();
    match &args.tree.files_from {
        None => {
            for source in &args.sources {
                roots.extend(source::root(source, name)?);
            }
        }
        Some(list) => {
            let [Source::Path(base)] = args.sources.as_slice() else {
                return Err(Failure::usage(
                    "with --files-from there is one SRC, the directory that the list is for",
                ));
            };
            source::readable(base)?;
            if !base.is_dir() {
                let message = format!("{}: not a directory, and --files-from needs one", base.display());
                return Err(Failure::new(Exit::NoDirectory, message));
            }
            roots.push(Root::Listed { base: base.clone(), paths: source::listed(list)? });
        }
    }
    if roots.len() > usize::from(u16::MAX) {
        return Err(Failure::usage(format!(
            "there are {} sources; at most {} can be sent at once",
            roots.len(),
            u16::MAX
        )));
    }
    let placement = placement(&roots, path);
    let spec = SourceSpec {
        filters: args.tree.shape.filters()?,
        symlinks: args.tree.shape.symlinks(),
        keep: args.tree.shape.keep(),
        ..SourceSpec::new(roots)
    };
    Ok(Plan { spec, dest: path.trim_end_matches('/').to_owned(), placement })
}

/// What the destination means, as `cp` and rsync would understand it.
fn placement(roots: &[Root], path: &str) -> Placement {
    match roots {
        [Root::Stdin { .. }] => Placement::As,
        [root] if !path.is_empty() && !path.ends_with('/') && !source::means_contents(root) => {
            Placement::Auto
        }
        _ => Placement::Into,
    }
}

/// Lists what would be sent.
fn dry_run(args: &SendArgs, spec: &SourceSpec) -> Result<Exit, Failure> {
    let mut listing = Listing::new(&args.output);
    for item in list(spec) {
        match item {
            Ok(entry) => listing.entry(&entry.path, &entry)?,
            Err(problem) => listing.problem(&problem.path, &problem.reason),
        }
    }
    Ok(listing.finish()?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn planned(words: &[&str]) -> Result<Plan, Failure> {
        let words = ["metra", "send"].iter().chain(words);
        match Cli::try_parse_from(words).unwrap().command {
            Command::Send(args) => plan(&args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_destination_means_what_it_means_to_cp() {
        let dir = tempfile::tempdir().unwrap();
        let (file, other) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&file, "").unwrap();
        std::fs::write(&other, "").unwrap();
        let (file, other) = (file.to_str().unwrap(), other.to_str().unwrap());
        let contents = format!("{}/", dir.path().display());
        let at = |words: &[&str]| planned(words).map(|plan| (plan.placement, plan.dest)).unwrap();
        assert_eq!(at(&[file, "mtp://h/x"]), (Placement::Auto, "x".into()));
        assert_eq!(at(&[file, "mtp://h/x/"]), (Placement::Into, "x".into()));
        assert_eq!(at(&[file, "mtp://h/"]), (Placement::Into, "".into()));
        assert_eq!(at(&[file, "mtp://h"]), (Placement::Into, "".into()));
        assert_eq!(at(&[file, other, "mtp://h/x"]), (Placement::Into, "x".into()));
        assert_eq!(at(&[&contents, "mtp://h/x"]), (Placement::Into, "x".into()));
        assert_eq!(at(&["-", "mtp://h/x/y"]), (Placement::As, "x/y".into()));
        assert_eq!(at(&["zero:1G", "mtp://h/null:"]), (Placement::Auto, "null:".into()));
    }

    #[test]
    fn standard_input_has_a_name_and_is_read_once() {
        let plan = planned(&["-", "mtp://h/x/y"]).unwrap();
        assert_eq!(plan.spec.roots, [Root::Stdin { name: "y".into() }]);
        for words in [&["-", "mtp://h/x/"][..], &["-", "mtp://h"], &["-", "-", "mtp://h/x"]] {
            assert_eq!(planned(words).unwrap_err().exit, Exit::Usage, "{words:?}");
        }
        let failure = planned(&["-", "mtp://h/x", "--files-from", "-"]).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
    }

    #[test]
    fn a_list_goes_with_one_directory() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().to_str().unwrap();
        let list = dir.path().join("list");
        std::fs::write(&list, "a/b\n/c\n").unwrap();
        let list = list.to_str().unwrap();
        let plan = planned(&[base, "mtp://h/x", "--files-from", list]).unwrap();
        let paths = vec!["a/b".into(), "c".into()];
        assert_eq!(plan.spec.roots, [Root::Listed { base: base.into(), paths }]);
        assert_eq!(plan.placement, Placement::Into);
        let exit = |words: &[&str]| planned(words).unwrap_err().exit;
        assert_eq!(exit(&[list, "mtp://h/x", "--files-from", list]), Exit::NoDirectory);
        assert_eq!(exit(&[base, base, "mtp://h/x", "--files-from", list]), Exit::Usage);
        assert_eq!(exit(&[base, "mtp://h/x", "--files-from", "/absent"]), Exit::NoFile);
    }

    #[test]
    fn patterns_are_understood_before_anything_is_sent() {
        let failure = planned(&[".", "mtp://h/x", "--exclude", "[z"]).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.message.contains("[z"), "{}", failure.message);
    }
}
