//! Where the file is.

use std::ffi::OsString;
use std::path::PathBuf;

/// Where the file is, if there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) file: PathBuf,
    /// Somebody has named this very file.
    pub(super) is_named: bool,
}

/// From `METRA_CONFIG`, `XDG_CONFIG_HOME` and `HOME`. `None`: there is no place for it.
pub(super) fn choose(
    metra: Option<OsString>,
    xdg: Option<OsString>,
    home: Option<OsString>,
) -> Option<Place> {
    if let Some(file) = metra {
        return Some(Place { file: file.into(), is_named: true });
    }
    // The XDG specification: a relative path is to be ignored.
    let xdg = xdg.map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = xdg.or_else(|| Some(PathBuf::from(home?).join(".config")))?;
    Some(Place { file: folder.join("metra/client.toml"), is_named: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_is_set_counts() {
        let some = |text: &str| Some(OsString::from(text));
        let place = |file: &str, is_named| Some(Place { file: file.into(), is_named });
        assert_eq!(choose(some("m"), some("/x"), some("/h")), place("m", true));
        assert_eq!(choose(None, some("/x"), some("/h")), place("/x/metra/client.toml", false));
        assert_eq!(choose(None, some("x"), some("/h")), place("/h/.config/metra/client.toml", false));
        assert_eq!(choose(None, None, some("/h")), place("/h/.config/metra/client.toml", false));
        assert_eq!(choose(None, None, None), None);
    }
}
