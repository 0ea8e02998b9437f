//! What `metra send` and `metra get` have in common: which names, what of them, and what is there already.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use metra_client::Priority;
use metra_core::wire::{Keep, Overwrite, Symlinks};
use metra_store::source::Filters;

use super::filters::FilterArgs;
use crate::exit::Failure;

/// What shapes a manifest.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "What is copied")]
pub(crate) struct ShapeArgs {
    #[command(flatten)]
    pub(crate) filters: FilterArgs,
    /// What becomes of symbolic links
    #[arg(long, value_name = "HOW", default_value = "keep")]
    symlinks: SymlinksName,
    /// Do not keep times of modification
    #[arg(long)]
    no_times: bool,
    /// Do not keep permission bits
    #[arg(long)]
    no_mode: bool,
    /// Directories are always copied whole; accepted as a habit
    #[arg(short, long, hide = true)]
    recursive: bool,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "What is copied")]
pub(crate) struct TreeArgs {
    #[command(flatten)]
    pub(crate) shape: ShapeArgs,
    /// Copy only the paths listed in this file (- is standard input), one a line, relative to the one SRC
    #[arg(long, value_name = "FILE")]
    pub(crate) files_from: Option<PathBuf>,
    /// What becomes of files that are at the destination already
    #[arg(long, value_name = "WHEN", default_value = "different")]
    overwrite: OverwriteName,
    /// How urgent it is where the gateway divides rates among transfers: 0 (urgent) to 7 (background)
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(0..=7))]
    priority: u8,
    /// List what would be copied, and copy nothing
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SymlinksName {
    /// Copy the link itself
    Keep,
    /// Copy what it points to
    Follow,
    /// Leave it out
    Skip,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OverwriteName {
    /// Keep what is there
    Never,
    /// Replace it
    Always,
    /// Replace it if type, size, time or content differ
    Different,
}

impl ShapeArgs {
    pub(crate) fn symlinks(&self) -> Symlinks {
        match self.symlinks {
            SymlinksName::Keep => Symlinks::Keep,
            SymlinksName::Follow => Symlinks::Follow,
            SymlinksName::Skip => Symlinks::Skip,
        }
    }

    pub(crate) fn keep(&self) -> Keep {
        Keep { mode: !self.no_mode, times: !self.no_times }
    }

    /// The patterns, understood.
    pub(crate) fn filters(&self) -> Result<Filters, Failure> {
        let rules = self.filters.rules.iter().map(|(include, pattern)| (*include, pattern));
        Filters::new(rules).map_err(|e| Failure::usage(e.to_string()))
    }
}

impl TreeArgs {
    pub(crate) fn priority(&self) -> Priority {
        Priority::new(self.priority).unwrap_or_default()
    }

    pub(crate) fn overwrite(&self) -> Overwrite {
        match self.overwrite {
            OverwriteName::Never => Overwrite::Never,
            OverwriteName::Always => Overwrite::Always,
            OverwriteName::Different => Overwrite::Different,
        }
    }
}
