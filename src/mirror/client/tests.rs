use super::{
    sasl::{Scram, plain},
    *,
};
use crate::secret::Secret;

fn sasl(mechanism: Mechanism, username: &str, password: &str) -> Sasl {
    Sasl { mechanism, username: username.into(), password: Secret::new(password) }
}

/// The example of RFC 7677, section 3.
#[test]
fn scram_sha_256_follows_the_rfc() {
    let sasl = sasl(Mechanism::ScramSha256, "user", "pencil");
    let (mut scram, first) = Scram::with_nonce(&sasl, "rOprNGfwEbeRWgbNEkqO").unwrap();
    assert_eq!(first, "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
    let challenge =
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096".as_slice();
    let answer = scram.answer(&sasl, challenge).unwrap();
    assert_eq!(
        answer,
        "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    );
    scram.finish(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=").unwrap();
    assert!(scram.finish(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5=").is_err());
    assert_eq!(scram.finish(b"e=invalid-proof").unwrap_err(), "invalid-proof");
}

#[test]
fn scram_refuses_a_server_that_cheats() {
    let sasl = sasl(Mechanism::ScramSha512, "a=b,c", "p");
    let (mut scram, first) = Scram::with_nonce(&sasl, "abc").unwrap();
    assert_eq!(first, "n,,n=a=3Db=2Cc,r=abc");
    for challenge in [
        "r=xyz123,s=c2FsdA==,i=4096",
        "r=abc,s=c2FsdA==,i=4096",
        "r=abcdef,s=c2FsdA==,i=1",
        "r=abcdef,s=c2FsdA==,i=4000000000",
        "r=abcdef,s=c2FsdA==",
        "r=abcdef,s=***,i=4096",
        "",
    ] {
        assert!(scram.answer(&sasl, challenge.as_bytes()).is_err(), "{challenge}");
    }
    assert!(scram.finish(b"v=AAAA").is_err());
}

#[test]
fn plain_has_no_authorization_identity() {
    assert_eq!(plain(&sasl(Mechanism::Plain, "edge", "pw")), b"\0edge\0pw");
}

#[test]
fn endpoints_are_read_and_written() {
    for (text, host, port) in
        [("kafka:9092", "kafka", 9092), ("[::1]:9093", "::1", 9093), (" 10.0.0.1:1 ", "10.0.0.1", 1)]
    {
        let endpoint: Endpoint = text.parse().unwrap();
        assert_eq!((endpoint.host.as_str(), endpoint.port), (host, port));
        assert_eq!(endpoint.to_string(), text.trim());
    }
    for text in ["kafka", ":9092", "::1:9092", "kafka:x", "kafka:70000", ""] {
        assert!(text.parse::<Endpoint>().is_err(), "{text}");
    }
}

/// A broker that answers the first request with these bytes and closes.
async fn answer_once(answer: Vec<u8>) -> Error {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Endpoint { host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port() };
    tokio::spawn(async move {
        let (mut stream, _peer) = listener.accept().await.unwrap();
        let length = stream.read_u32().await.unwrap();
        let mut request = vec![0; length as usize];
        stream.read_exact(&mut request).await.unwrap();
        stream.write_all(&answer).await.unwrap();
        // Held open until the client has made up its mind.
        let _closed = stream.read_u8().await;
    });
    Connection::open(&endpoint, &Security::default(), &Options::default()).await.unwrap_err()
}

#[tokio::test]
async fn a_broker_that_lies_ends_the_connection() {
    let mut wrong_correlation = 10i32.to_be_bytes().to_vec();
    wrong_correlation.extend([0, 0, 0, 9, 0, 0, 0, 0, 0, 0]);
    // An array of 2^31-1 elements in a frame of 10 bytes.
    let mut endless = 10i32.to_be_bytes().to_vec();
    endless.extend([0, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff]);
    for (answer, expected) in [
        (i32::MAX.to_be_bytes().to_vec(), "impossible size"),
        ((-5i32).to_be_bytes().to_vec(), "impossible size"),
        (vec![0, 0, 0, 0], "impossible size"),
        (wrong_correlation, "answer 9 came instead of 0"),
        (endless, "ApiVersions"),
    ] {
        let error = answer_once(answer).await.to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn nobody_listening_is_told_with_the_address() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Endpoint { host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port() };
    drop(listener);
    let client = Client::new(vec![endpoint.clone()], Security::default(), Options::default());
    let error = client.any().await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot connect to {endpoint}: ")), "{error}");
}
