#![allow(clippy::unwrap_used)]
use std::fs;
use std::os::unix::fs::PermissionsExt;

use metra_certs::Pin;

use super::check;
use super::*;

const PIN: &str = "sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

/// What a file says that its owner alone can read.
fn read(text: &str) -> Result<Settings, String> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("client.toml");
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let base = format!("{}/", dir.path().display());
    Settings::read(&file).map_err(|failure| failure.message.replace(&base, ""))
}

fn chosen(text: &str, gateway: &str) -> Chosen {
    read(text).unwrap().for_gateway(&gateway.parse().unwrap())
}

#[test]
fn the_table_of_a_gateway_comes_before_what_is_for_all() {
    let text = format!(
        "proxy = 'http://all:1'\nvia = 'tls'\ninspection = 'refuse'\ntimeout_seconds = 7\nca = 'all.pem'\n\
         [gateway.'gw.example']\nvia = 'ws'\ntimeout_seconds = 9\npin = '{PIN}'\n[gateway.'[::1]:9']\nproxy = 'none'"
    );
    let own = chosen(&text, "GW.example:4443");
    assert_eq!((own.via, own.inspection, own.timeout), (Some(Way::Ws), Some(Inspection::Refuse), Some(9)));
    assert_eq!(own.proxy.as_deref(), Some("http://all:1"));
    // By its key alone, as with --pin.
    assert_eq!((own.ca.len(), own.pins), (0, vec![PIN.parse::<Pin>().unwrap()]));
    let other = chosen(&text, "gw.example:4444");
    assert_eq!((other.via, other.timeout, other.pins.len(), other.ca.len()), (Some(Way::Tls), Some(7), 0, 1));
    assert!(other.ca[0].is_absolute() && other.ca[0].ends_with("all.pem"), "{other:?}");
    assert_eq!(chosen(&text, "[0:0::1]:9").proxy.as_deref(), Some("none"));
    assert_eq!(chosen("", "h"), Chosen::default());
}

#[test]
fn a_proxy_of_one_gateway_has_its_own_exceptions() {
    let text = "no_proxy = ['.example', '10.0.0.0/8']\n[gateway.'a.example']\nproxy = 'http://a:1'\n\
                [gateway.'b.example']\nno_proxy = ''";
    let no_proxy = |gateway| chosen(text, gateway).no_proxy;
    assert_eq!(no_proxy("a.example"), None);
    assert_eq!(no_proxy("b.example").as_deref(), Some(""));
    assert_eq!(no_proxy("c.example").as_deref(), Some(".example,10.0.0.0/8"));
}

#[test]
fn a_token_is_for_the_proxies_of_its_table_or_of_more_general_places() {
    let text = "proxy = 'http://all:1'\nproxy_token_file = 'all'\n[gateway.a]\nproxy = 'http://a:1'\n\
                [gateway.b]\nproxy_token_file = 'b'\n[gateway.c]\nproxy = 'http://c:1'\nproxy_token_file = 'c'";
    let token = |gateway| {
        let token = chosen(text, gateway).proxy_token_file?;
        Some(token.file_name().unwrap().to_str().unwrap().to_owned())
    };
    assert_eq!(token("a"), None);
    assert_eq!(token("b").as_deref(), Some("b"));
    assert_eq!(token("c").as_deref(), Some("c"));
    assert_eq!(token("d").as_deref(), Some("all"));
}

#[test]
fn tunnels_have_proxies_and_tokens_of_one_table() {
    let text = "masque_proxy = ['https://a.example', 'https://b.example/{target_host}/{target_port}']\n\
                masque_token_file = ['a', 'b']\n[gateway.g]\nmasque_proxy = 'https://me:secret@c.example'\n\
                [gateway.h]\nmasque_proxy = 'none'";
    let of = |gateway| {
        let chosen = chosen(text, gateway);
        (chosen.masque.len(), chosen.masque_tokens.len())
    };
    assert_eq!((of("f"), of("g"), of("h")), ((2, 2), (1, 0), (0, 0)));
    for (text, told) in [
        ("masque_proxy = 'https://me:secret@p/{target_host}'", "1: masque_proxy: no template"),
        ("masque_proxy = ['https://a', 'https://b', 'https://c']", "1: masque_proxy: there are two"),
        ("masque_token_file = 'a'", "1: masque_token_file: is for"),
    ] {
        let error = read(text).unwrap_err();
        assert!(error.contains(told) && !error.contains("secret"), "{error}");
    }
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let text = "proxy = 'ftp://p'\nprox = 1\nvia = 'pigeon'\ntimeout_seconds = -1\npin = 'x'\nca = 5\n\
                [gateway.'h:0']\nno_proxy = 1\npin = ['y']\n[gateway.'g']\n[gateway.'G:4443']\n\
                proxy = 'socks5://p'\nproxy_token_file = 't'\n[gateway.i.gateway.j]\n";
    let told = read(text).unwrap_err();
    let begins = [
        "client.toml:1: proxy: \"ftp\" is no kind of proxy",
        "client.toml:2: prox: unknown field `prox`",
        "client.toml:3: via: unknown variant `pigeon`, expected one of `auto`, `quic`, `masque`, `masque-tcp`, `tls`, `ws`",
        "client.toml:4: timeout_seconds: invalid value",
        "client.toml:5: pin: is for one gateway",
        "client.toml:5: pin: ",
        "client.toml:6: ca: ",
        "client.toml:7: gateway.\"h:0\": is no HOST:PORT: the port must be",
        "client.toml:8: gateway.\"h:0\".no_proxy: ",
        "client.toml:9: gateway.\"h:0\".pin: ",
        "client.toml:10: gateway.g: there is another table for g:4443",
        "client.toml:13: gateway.\"G:4443\".proxy_token_file: the proxy's credentials cannot be sent",
        "client.toml:14: gateway.i: has a table \"gateway\" in it",
    ];
    assert_eq!(told.lines().count(), begins.len(), "{told}");
    for (line, begin) in told.lines().zip(begins) {
        assert!(line.starts_with(begin), "{line}\n{begin}");
    }
    assert!(read("proxy = 'http://me:secret@p:x'").unwrap_err().lines().all(|line| !line.contains("secret")));
    assert!(read("via = ").unwrap_err().starts_with("client.toml:1: "));
}

#[test]
fn a_password_that_others_can_read_is_worth_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("client.toml");
    let warning = |text: &str, mode: u32| {
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        check::read(&file).unwrap().warning
    };
    let secret = "[gateway.h]\nproxy = 'http://me:secret@p'";
    assert_eq!(warning(secret, 0o600), None);
    assert_eq!(warning("proxy = 'http://p'", 0o644), None);
    for mode in [0o644, 0o640, 0o604] {
        let told = warning(secret, mode).unwrap();
        assert!(told.contains("chmod 600") && !told.contains("secret"), "{told}");
    }
}

#[test]
fn a_file_that_nobody_has_named_need_not_be_there() {
    assert!(is_absent(Path::new("/absent/client.toml")) && is_absent(Path::new("/dev/null/client.toml")));
    assert!(!is_absent(Path::new("/")));
    assert!(Settings::read(Path::new("/absent/client.toml")).unwrap_err().message.contains("cannot be read"));
}

#[test]
fn the_example_shows_every_key() {
    let example = include_str!("../../docs/client.example.toml");
    assert_eq!(chosen(example, "gw.example.org"), Chosen::default(), "as it is, it says nothing");
    let all: String = example
        .lines()
        .map(|line| match line.strip_prefix("#") {
            Some(rest) if rest.starts_with('[') || rest.contains(" = ") && !rest.starts_with(' ') => rest,
            _ => line,
        })
        .fold(String::new(), |text, line| text + line + "\n");
    let settings = read(&all).unwrap();
    let (_, own) = settings.gateways.first().unwrap();
    for (table, is_own) in [(&settings.everywhere, false), (own, true)] {
        // A new key does not compile before it is here.
        let Table {
            proxy,
            no_proxy,
            proxy_token_file,
            masque,
            masque_tokens,
            via,
            inspection,
            ca,
            pins,
            timeout,
            token_file,
        } = table;
        assert!(masque.is_some() && !masque_tokens.is_empty(), "{table:?}");
        assert!(proxy.is_some() && no_proxy.is_some() && proxy_token_file.is_some(), "{table:?}");
        assert!(via.is_some() && inspection.is_some() && timeout.is_some() && !ca.is_empty(), "{table:?}");
        assert_eq!((pins.is_empty(), token_file.is_none()), (!is_own, !is_own), "{table:?}");
    }
    assert!(all.contains("\nvia = \"auto\"\n") && all.contains("\ntimeout_seconds = 60\n"), "the defaults");
}
