//! What a transfer says while it runs, and afterwards.

use std::time::Duration;

use clap::Args;

#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Output")]
pub(crate) struct OutputArgs {
    /// Print nothing but errors
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Print one JSON object a line on standard output; the last one is the summary
    #[arg(long)]
    pub(crate) json: bool,
    /// Milliseconds between two objects of progress
    #[arg(long, value_name = "MS", default_value_t = 1000, hide = true)]
    json_interval: u64,
}

impl OutputArgs {
    /// Between two objects of progress.
    pub(crate) fn json_interval(&self) -> Duration {
        Duration::from_millis(self.json_interval)
    }
}

#[cfg(test)]
impl OutputArgs {
    pub(crate) fn json_for_tests() -> Self {
        Self { quiet: false, json: true, json_interval: 1000 }
    }
}
