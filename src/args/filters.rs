//! `--include` and `--exclude`, whose order among each other counts.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches};

/// The patterns in the order of the command line; `true` includes, `false` excludes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FilterArgs {
    pub(crate) rules: Vec<(bool, String)>,
}

impl FromArgMatches for FilterArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut found = Vec::new();
        for (id, include) in [("include", true), ("exclude", false)] {
            let places = matches.indices_of(id).into_iter().flatten();
            let patterns = matches.get_many::<String>(id).into_iter().flatten();
            found.extend(places.zip(patterns).map(|(place, pattern)| (place, include, pattern.clone())));
        }
        found.sort_by_key(|(place, ..)| *place);
        Ok(Self { rules: found.into_iter().map(|(_, include, pattern)| (include, pattern)).collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for FilterArgs {
    fn augment_args(command: Command) -> Command {
        let arg = |id: &'static str| {
            Arg::new(id)
                .long(id)
                .value_name("PATTERN")
                .action(ArgAction::Append)
                .help_heading("What is copied")
        };
        command
            .arg(arg("include").help("Include what matches. The first pattern that matches decides").long_help(
                "Include what matches. Of all --include and --exclude, in order, the first pattern that matches \
                 decides; what none matches is included. A pattern without / is matched on the name at any \
                 depth, one with / on the whole path below SRC, one that ends in / on directories only. \
                 * and ? do not match /, ** does",
            ))
            .arg(arg("exclude").help("Exclude what matches; nothing below an excluded directory is looked at"))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        filters: FilterArgs,
    }

    #[test]
    fn the_order_is_kept() {
        let words = ["x", "--exclude", "a", "--include=b", "--include", "c", "--exclude=d"];
        let line = Line::try_parse_from(words).unwrap();
        let rules = [(false, "a"), (true, "b"), (true, "c"), (false, "d")];
        assert_eq!(line.filters.rules, rules.map(|(include, pattern)| (include, pattern.to_owned())));
        assert!(Line::try_parse_from(["x"]).unwrap().filters.rules.is_empty());
    }
}
