//! Tokens of an identity provider.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::{sleep, spawn};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use metra_certs::{DevCa, server_config};
use rcgen::KeyPair;
use rustls::{ServerConfig, ServerConnection, Stream};
use serde_json::{Value, json};

use crate::harness::{Bed, Gateway, data, run, wait_until};

tests![
    who_a_token_stands_for,
    tokens_that_do_not_count,
    keys_that_change,
    keys_at_a_url,
    a_session_outlives_its_token
];

const ISSUER: &str = "https://id.example";

/// An identity provider with one key.
struct Provider {
    key: EncodingKey,
    jwk: Jwk,
}

impl Provider {
    fn new(id: &str) -> Self {
        let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let key = EncodingKey::from_ec_der(&pair.serialize_der());
        let mut jwk = Jwk::from_encoding_key(&key, Algorithm::ES256).unwrap();
        jwk.common.key_id = Some(id.to_owned());
        Self { key, jwk }
    }

    fn keys(&self) -> String {
        json!({ "keys": [self.jwk] }).to_string()
    }

    fn publish(&self, bed: &Bed) -> PathBuf {
        bed.write("jwks.json", self.keys())
    }

    /// A token for `user`, good for so many seconds, with other claims on top.
    fn token(&self, user: &str, seconds: i64, others: &Value) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
        let mut claims = json!({ "iss": ISSUER, "aud": "metra", "sub": user, "exp": now + seconds });
        for (name, value) in others.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let header = Header { kid: self.jwk.common.key_id.clone(), ..Header::new(Algorithm::ES256) };
        encode(&header, &claims, &self.key).unwrap()
    }
}

fn gateway(bed: &Bed, provider: &Provider, rest: &str) -> Gateway {
    let file = provider.publish(bed);
    bed.gateway_with(&format!(
        "[jwt.id]\nissuer = {ISSUER:?}\naudience = \"metra\"\njwks_file = {file:?}\n{rest}"
    ))
}

fn put(bed: &Bed, gateway: &Gateway, token: &str, path: &str) -> run::Run {
    let file = bed.write("file", "content");
    bed.client(gateway, ["send"]).arg(file).arg(gateway.url(path)).env("METRA_TOKEN", token)
}

fn who_a_token_stands_for(bed: &Bed) {
    let provider = Provider::new("one");
    fs::create_dir_all(bed.folder("root").join("company")).unwrap();
    let gateway = gateway(bed, &provider, "home = \"company\"\n");
    put(bed, &gateway, &provider.token("dora@example.org", 300, &json!({})), "a").expect(0);
    assert_eq!(fs::read(gateway.at("company/a")).unwrap(), b"content");
    assert!(gateway.log().contains("user=\"dora@example.org\""), "{}", gateway.log());
    put(bed, &gateway, &provider.token("emil", 300, &json!({ "aud": ["x", "metra"] })), "b").expect(0);
    // Over TCP and as HTTP it is the same.
    put(bed, &gateway, &provider.token("emil", 300, &json!({})), "c").args(["--via", "tls"]).expect(0);
    put(bed, &gateway, &provider.token("emil", 300, &json!({})), "d").args(["--via", "ws"]).expect(0);
}

fn tokens_that_do_not_count(bed: &Bed) {
    let (provider, stranger) = (Provider::new("one"), Provider::new("one"));
    let known = "[users.alice]\ntoken_hash = \"blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262\"\n";
    let gateway = gateway(bed, &provider, known);
    let expired = provider.token("emil", -3600, &json!({}));
    let cases = [
        expired.clone(),
        stranger.token("emil", 300, &json!({})),
        provider.token("emil", 300, &json!({ "iss": "https://other.example" })),
        provider.token("emil", 300, &json!({ "aud": "files" })),
        // Who is known by other credentials is not to be had with these, nor a name that is none.
        provider.token("alice", 300, &json!({})),
        provider.token("anonymous", 300, &json!({})),
        provider.token("../emil", 300, &json!({})),
    ];
    for (number, token) in cases.iter().enumerate() {
        let refused = put(bed, &gateway, token, "refused").expect(10);
        assert!(!refused.stderr.contains(token.as_str()), "a token is shown: {number}\n{refused}");
    }
    let told = put(bed, &gateway, &expired, "refused").expect(10);
    assert!(told.stderr.contains("expired"), "{told}");
    assert!(!gateway.at("refused").exists() && !gateway.log().contains(&expired));
}

fn keys_that_change(bed: &Bed) {
    let (first, second) = (Provider::new("one"), Provider::new("two"));
    let gateway = gateway(bed, &first, "");
    put(bed, &gateway, &second.token("emil", 300, &json!({})), "a").expect(10);
    second.publish(bed);
    wait_until("new keys", || gateway.log().contains("keys read"));
    put(bed, &gateway, &second.token("emil", 300, &json!({})), "a").expect(0);
    put(bed, &gateway, &first.token("emil", 300, &json!({})), "b").expect(10);
    // What is no set of keys changes nothing.
    bed.write("jwks.json", "{");
    wait_until("a warning", || gateway.log().contains("those before stay in force"));
    put(bed, &gateway, &second.token("emil", 300, &json!({})), "b").expect(0);
}

/// A server of HTTPS that says to everybody what the test wants it to.
struct Server {
    address: SocketAddr,
    ca: PathBuf,
    says: Arc<Mutex<String>>,
}

impl Server {
    fn start(bed: &Bed, says: String) -> Self {
        let state = bed.folder("https");
        let identity = DevCa::load_or_create(&state).unwrap().server_identity(&[]).unwrap();
        let tls = server_config(&identity, None).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, says) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(says)));
        let to_say = says.clone();
        spawn(move || {
            for connection in listener.incoming() {
                // Who does not trust it ends the handshake.
                let _ = answer(connection.unwrap(), &tls, &to_say.lock().unwrap());
            }
        });
        Self { address, ca: state.join("dev-ca.pem"), says }
    }

    fn say(&self, text: String) {
        *self.says.lock().unwrap() = text;
    }
}

fn answer(mut tcp: TcpStream, tls: &Arc<ServerConfig>, text: &str) -> std::io::Result<()> {
    tcp.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut connection = ServerConnection::new(tls.clone()).unwrap();
    let mut stream = Stream::new(&mut connection, &mut tcp);
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        request.push(byte[0]);
    }
    assert!(request.starts_with(b"GET /keys?of=metra HTTP/1.1\r\n"));
    write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len())?;
    stream.conn.send_close_notify();
    stream.flush()
}

fn keys_at_a_url(bed: &Bed) {
    let (first, second) = (Provider::new("one"), Provider::new("two"));
    let server = Server::start(bed, first.keys());
    let (url, ca) = (format!("https://{}/keys?of=metra", server.address), &server.ca);
    let settings = format!("[jwt.id]\nissuer = {ISSUER:?}\naudience = \"metra\"\njwks_url = {url:?}\n");
    let distrustful = bed.gateway_with(&settings);
    let gateway = bed.gateway_with(&format!("{settings}jwks_ca = {ca:?}\n"));
    put(bed, &gateway, &first.token("emil", 300, &json!({})), "a").expect(0);
    // Who has a certificate of nobody that is trusted gives no keys.
    wait_until("a warning", || distrustful.log().contains("the keys cannot be read"));
    put(bed, &distrustful, &first.token("emil", 300, &json!({})), "a").expect(10);
    // A key that is not known is looked for, not more often than each ten seconds.
    server.say(second.keys());
    put(bed, &gateway, &second.token("emil", 300, &json!({})), "b").run();
    wait_until("newer keys", || gateway.log().matches("keys read").count() == 2);
    put(bed, &gateway, &second.token("emil", 300, &json!({})), "b").expect(0);
    put(bed, &gateway, &first.token("emil", 300, &json!({})), "c").expect(10);
}

/// Who has come with a token goes on when links break after its end.
fn a_session_outlives_its_token(bed: &Bed) {
    let provider = Provider::new("one");
    let gateway = gateway(bed, &provider, "[limits]\nidle_seconds = 5\n");
    // Clocks may differ by a minute: this token ends in two seconds.
    let token = provider.token("emil", -58, &json!({}));
    let relay = bed.relay(&gateway, 2 << 20);
    let file = bed.write("file", data::noise(7, 8 << 20));
    let run = bed.client(&gateway, ["send"]).args(["--timeout", "30", "--via", "quic"]);
    let running = run.arg(&file).arg(relay.url("file")).env("METRA_TOKEN", &token).start();
    relay.wait_up(2 << 20);
    // Until after its end, and until the link is given up.
    relay.cut(true);
    sleep(Duration::from_secs(7));
    relay.cut(false);
    running.finish().expect(0);
    assert_eq!(gateway.log().matches("joined").count(), 2, "{}", gateway.log());
    put(bed, &gateway, &token, "late").expect(10);
}
