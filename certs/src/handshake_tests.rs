//! Real handshakes between [`client_config`] and [`server_config`], over buffers in memory.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::sync::Arc;

use rcgen::date_time_ymd;
use rustls::pki_types::ServerName;
use rustls::{
    ClientConfig, ClientConnection, Error as Tls, NamedGroup, ProtocolVersion, ServerConfig, ServerConnection,
};
use tempfile::{TempDir, tempdir};

use crate::testing::{Issued, TestCa, server_params, write};
use crate::{
    DevCa, ServerIdentity, TrustAnchors, Untrusted, client_config, client_identity, pin_of, provider,
    server_config,
};

struct Done {
    client: ClientConnection,
    server: ServerConnection,
}

/// Runs a handshake to its end; the error is that of the side which gave up.
fn handshake(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>, host: &str) -> Result<Done, Tls> {
    let host = ServerName::try_from(host.to_owned()).unwrap();
    let mut client = ClientConnection::new(client.clone(), host)?;
    let mut server = ServerConnection::new(server.clone())?;
    exchange(&mut client, &mut server)?;
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok(Done { client, server })
}

fn exchange(client: &mut ClientConnection, server: &mut ServerConnection) -> Result<(), Tls> {
    while client.wants_write() || server.wants_write() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets()?;
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets()?;
        }
    }
    Ok(())
}

fn server_of(dir: &TempDir, issued: &Issued) -> Arc<ServerConfig> {
    server_config(&issued.identity(dir), None).unwrap()
}

/// The text of the [`Untrusted`] with which the client refuses.
fn refusal(trust: &TrustAnchors, server: &Arc<ServerConfig>, host: &str) -> String {
    let error = handshake(&client_config(trust, None).unwrap(), server, host).err().unwrap();
    let untrusted = Untrusted::of(&error).unwrap_or_else(|| panic!("{error}"));
    assert_eq!(Untrusted::sentence_in(&error.to_string()), Some(untrusted.to_string().as_str()));
    assert_eq!(Untrusted::pin_in(&error.to_string()), untrusted.pin);
    untrusted.to_string()
}

#[test]
fn a_first_run_needs_no_set_up() {
    let dir = tempdir().unwrap();
    let identity = DevCa::load_or_create(dir.path()).unwrap().server_identity(&[]).unwrap();
    let server = server_config(&identity, None).unwrap();
    let client = client_config(&TrustAnchors::new().local(dir.path()), None).unwrap();
    for host in ["localhost", "127.0.0.1", "::1"] {
        let done = handshake(&client, &server, host).unwrap();
        assert_eq!(done.client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        assert_eq!(done.client.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
        assert!(done.server.peer_certificates().is_none());
    }
}

#[test]
fn the_same_directory_loaded_from_files_serves_too() {
    let dir = tempdir().unwrap();
    DevCa::load_or_create(dir.path()).unwrap().server_identity(&[]).unwrap();
    let (cert, key) = (dir.path().join("server.pem"), dir.path().join("server.key"));
    let server = server_config(&ServerIdentity::from_pem_files(&cert, &key).unwrap(), None).unwrap();
    let client =
        client_config(&TrustAnchors::new().ca_file(dir.path().join(DevCa::CERT_FILE)), None).unwrap();
    handshake(&client, &server, "localhost").unwrap();
}

#[test]
fn a_wrong_ca_is_refused_with_what_to_do() {
    let dir = tempdir().unwrap();
    let (right, wrong) = (TestCa::new("right"), TestCa::new("wrong"));
    let issued = right.server(&["files.example"]);
    let server = server_of(&dir, &issued);
    let right_pem = write(&dir, "right.pem", &right.pem());
    let wrong_pem = write(&dir, "wrong.pem", &wrong.pem());
    let pin = pin_of(&issued.der).unwrap();

    let both = TrustAnchors::new().ca_file(&wrong_pem).ca_file(&right_pem);
    handshake(&client_config(&both, None).unwrap(), &server, "files.example").unwrap();
    assert_eq!(
        refusal(&TrustAnchors::new().ca_file(&wrong_pem), &server, "files.example"),
        format!(
            "the certificate of files.example is not trusted: none of the trusted authorities has issued it; use --ca FILE \
             with the certificate of its issuer, or --pin {pin} if the owner of the gateway confirms this key"
        )
    );
    let nobody = refusal(&TrustAnchors::new().local(dir.path()), &server, "files.example");
    assert!(nobody.contains("no certificate authority is known here; use --ca FILE"), "{nobody}");
}

#[test]
fn a_ca_file_replaces_the_other_authorities() {
    let dir = tempdir().unwrap();
    let identity = DevCa::load_or_create(dir.path()).unwrap().server_identity(&[]).unwrap();
    let server = server_config(&identity, None).unwrap();
    let other = write(&dir, "other.pem", &TestCa::new("other").pem());
    let text = refusal(&TrustAnchors::new().local(dir.path()).ca_file(other), &server, "localhost");
    assert!(text.contains("none of the trusted authorities"), "{text}");
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    let dir = tempdir().unwrap();
    let ca = TestCa::new("CA");
    let server = server_of(&dir, &ca.server(&["files.example"]));
    let trust = TrustAnchors::new().ca_file(write(&dir, "ca.pem", &ca.pem()));
    let text = refusal(&trust, &server, "other.example");
    assert!(text.contains("of other.example is not trusted") && text.contains("files.example"), "{text}");
}

#[test]
fn an_expired_certificate_and_one_of_the_future_are_refused() {
    let dir = tempdir().unwrap();
    let ca = TestCa::new("CA");
    let trust = TrustAnchors::new().ca_file(write(&dir, "ca.pem", &ca.pem()));
    let mut params = server_params(&["localhost"]);
    params.not_after = date_time_ymd(2024, 1, 1);
    let text = refusal(&trust, &server_of(&dir, &ca.sign(params)), "localhost");
    assert!(text.contains("certificate expired"), "{text}");
    let mut params = server_params(&["localhost"]);
    params.not_before = date_time_ymd(4000, 1, 1);
    let text = refusal(&trust, &server_of(&dir, &ca.sign(params)), "localhost");
    assert!(text.contains("not valid yet"), "{text}");
}

#[test]
fn a_certificate_for_clients_does_not_serve() {
    let dir = tempdir().unwrap();
    let ca = TestCa::new("CA");
    let trust = TrustAnchors::new().ca_file(write(&dir, "ca.pem", &ca.pem()));
    let mut params = server_params(&["localhost"]);
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    refusal(&trust, &server_of(&dir, &ca.sign(params)), "localhost");
}

#[test]
fn a_pin_stands_in_for_authority_name_and_expiry() {
    let dir = tempdir().unwrap();
    let mut params = server_params(&["elsewhere.example"]);
    params.not_after = date_time_ymd(2024, 1, 1);
    let issued = TestCa::new("nobody knows").sign(params);
    let other = pin_of(&TestCa::new("x").server(&["x"]).der).unwrap();
    let server = server_of(&dir, &issued);
    let pin = pin_of(&issued.der).unwrap();

    for trust in [TrustAnchors::new().pin(pin), TrustAnchors::new().pin(other).pin(pin)] {
        handshake(&client_config(&trust, None).unwrap(), &server, "localhost").unwrap();
    }
    let text = refusal(&TrustAnchors::new().pin(other), &server, "localhost");
    assert_eq!(
        text,
        format!(
            "the certificate of localhost is not trusted: its key is not the one pinned; use --pin {pin} if the owner of \
             the gateway confirms this key"
        )
    );
}

#[test]
fn of_a_pin_and_a_ca_both_must_hold() {
    let dir = tempdir().unwrap();
    let (ca, wrong) = (TestCa::new("CA"), TestCa::new("wrong"));
    let issued = ca.server(&["localhost"]);
    let server = server_of(&dir, &issued);
    let (ca, wrong) = (write(&dir, "ca.pem", &ca.pem()), write(&dir, "wrong.pem", &wrong.pem()));
    let pin = pin_of(&issued.der).unwrap();
    let other = pin_of(&TestCa::new("x").server(&["x"]).der).unwrap();

    let trust = TrustAnchors::new().ca_file(&ca).pin(pin);
    handshake(&client_config(&trust, None).unwrap(), &server, "localhost").unwrap();
    assert!(refusal(&trust, &server, "other.example").contains("not valid for name"));
    let text = refusal(&TrustAnchors::new().ca_file(&wrong).pin(pin), &server, "localhost");
    assert!(text.contains("none of the trusted authorities"), "{text}");
    let text = refusal(&TrustAnchors::new().ca_file(&ca).pin(other), &server, "localhost");
    assert!(text.contains("its key is not the one pinned"), "{text}");
}

#[test]
fn a_pinned_certificate_without_its_key_is_refused() {
    let (real, thief) = (TestCa::new("CA").server(&["localhost"]), TestCa::new("CA").server(&["localhost"]));
    let key = rustls::pki_types::PrivateKeyDer::try_from(thief.key.serialize_der()).unwrap();
    let key = provider().key_provider.load_private_key(key).unwrap();
    let stolen = rustls::sign::CertifiedKey::new(vec![real.der.clone()], key);
    let server = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(stolen)));
    let client = client_config(&TrustAnchors::new().pin(pin_of(&real.der).unwrap()), None).unwrap();
    let error = handshake(&client, &Arc::new(server), "localhost").err().unwrap();
    assert!(matches!(error, Tls::InvalidCertificate(rustls::CertificateError::BadSignature)), "{error}");
}

#[test]
fn tls_12_is_not_spoken() {
    let dir = tempdir().unwrap();
    let ca = TestCa::new("CA");
    let issued = ca.server(&["localhost"]);
    let client = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let error = handshake(&Arc::new(client), &server_of(&dir, &issued), "localhost").err().unwrap();
    assert!(matches!(error, Tls::PeerIncompatible(_)), "{error}");
}

#[test]
fn clients_are_known_by_their_certificates() {
    let dir = tempdir().unwrap();
    let (servers, clients) = (TestCa::new("servers"), TestCa::new("clients"));
    let client_ca = write(&dir, "clients.pem", &clients.pem());
    let server = server_config(&servers.server(&["localhost"]).identity(&dir), Some(&client_ca)).unwrap();
    let trust = TrustAnchors::new().ca_file(write(&dir, "servers.pem", &servers.pem()));

    let (cert, key) = clients.client("alice").files(&dir, "alice");
    let done = handshake(&client_config(&trust, Some((&cert, &key))).unwrap(), &server, "localhost").unwrap();
    assert_eq!(client_identity(done.server.peer_certificates().unwrap()).unwrap().as_str(), "alice");

    let anonymous = handshake(&client_config(&trust, None).unwrap(), &server, "localhost").unwrap();
    assert!(anonymous.server.peer_certificates().is_none());

    let (cert, key) = TestCa::new("clients").client("mallory").files(&dir, "mallory");
    let stranger = client_config(&trust, Some((&cert, &key))).unwrap();
    assert!(handshake(&stranger, &server, "localhost").is_err());

    // A certificate that may serve but not authenticate a client.
    let (cert, key) = clients.server(&["alice"]).files(&dir, "serving");
    let serving = client_config(&trust, Some((&cert, &key))).unwrap();
    assert!(handshake(&serving, &server, "localhost").is_err());

    let mut params = rcgen::CertificateParams::default();
    params.not_after = date_time_ymd(2024, 1, 1);
    let (cert, key) = clients.sign(params).files(&dir, "expired");
    let expired = client_config(&trust, Some((&cert, &key))).unwrap();
    assert!(handshake(&expired, &server, "localhost").is_err());
}

#[test]
fn a_client_identity_of_two_parts_is_refused_before_it_is_used() {
    let dir = tempdir().unwrap();
    let ca = TestCa::new("CA");
    let (cert, _) = ca.client("alice").files(&dir, "alice");
    let (_, key) = ca.client("bob").files(&dir, "bob");
    let error = client_config(&TrustAnchors::new(), Some((&cert, &key))).unwrap_err().to_string();
    assert!(error.contains("bob.key: not the key of the certificate in"), "{error}");
}

#[test]
fn files_of_authorities_must_be_there_except_the_local_one() {
    let dir = tempdir().unwrap();
    client_config(&TrustAnchors::new().local(dir.path().join("none")), None).unwrap();
    let error =
        client_config(&TrustAnchors::new().ca_file(dir.path().join("none")), None).unwrap_err().to_string();
    assert!(error.starts_with("cannot read ") && error.contains("none"), "{error}");
    write(&dir, DevCa::CERT_FILE, "damaged");
    let error = client_config(&TrustAnchors::new().local(dir.path()), None).unwrap_err().to_string();
    assert!(error.contains("dev-ca.pem: holds no certificate"), "{error}");
}

#[test]
fn the_second_connection_carries_data_in_its_first_flight() {
    let dir = tempdir().unwrap();
    let ca = TestCa::new("CA");
    let server = server_of(&dir, &ca.server(&["localhost"]));
    let trust = TrustAnchors::new().ca_file(write(&dir, "ca.pem", &ca.pem()));
    let config = client_config(&trust, None).unwrap();
    handshake(&config, &server, "localhost").unwrap();

    let mut client = ClientConnection::new(config, ServerName::try_from("localhost").unwrap()).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    client.early_data().unwrap().write_all(b"hello").unwrap();
    exchange(&mut client, &mut server).unwrap();
    assert!(client.is_early_data_accepted());
    let mut early = Vec::new();
    server.early_data().unwrap().read_to_end(&mut early).unwrap();
    assert_eq!(early, b"hello");
}
