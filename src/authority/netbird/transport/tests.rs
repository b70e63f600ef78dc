use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use rcgen::CertifiedKey;
use reqwest::Proxy;
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
};
use tokio_rustls::TlsAcceptor;

use super::*;

const TOKEN: &str = "nbp_5bXOHmDaZzLkwGdR8qTn2sVf1uYcJ30pWiEr";

/// A server that answers every request with the same bytes and closes the connection.
struct Server {
    port: u16,
    requests: UnboundedReceiver<String>,
}

impl Server {
    async fn answering(answer: impl Into<Vec<u8>>) -> Self {
        Self::start(answer.into(), None, Duration::ZERO).await
    }

    async fn start(answer: Vec<u8>, tls: Option<TlsAcceptor>, pause: Duration) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, requests) = unbounded_channel();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (answer, sender, tls) = (answer.clone(), sender.clone(), tls.clone());
                tokio::spawn(async move {
                    let request = match tls {
                        None => serve(stream, &answer, pause).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => serve(stream, &answer, pause).await,
                            Err(_) => return,
                        },
                    };
                    let _ = sender.send(request);
                });
            }
        });
        Self { port, requests }
    }

    fn url(&self, scheme: &str, host: &str) -> String {
        format!("{scheme}://{host}:{}", self.port)
    }
}

/// Reads a request, waits, and answers.
async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &[u8], pause: Duration) -> String {
    let mut request = Vec::new();
    while !is_whole(&request) {
        if stream.read_buf(&mut request).await.unwrap() == 0 {
            break;
        }
    }
    tokio::time::sleep(pause).await;
    // The client may have enough before all is sent.
    let _ = stream.write_all(answer).await;
    let _ = stream.shutdown().await;
    String::from_utf8(request).unwrap()
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    body.len() >= length.unwrap_or(0)
}

fn token() -> Token {
    Token::parse(TOKEN.as_bytes()).unwrap()
}

fn nothing_observed() -> Observer {
    Arc::new(|_, _, _| {})
}

/// A client that calls hosts of this machine, but not through a proxy of this machine's environment.
fn client(url: &str, ca_bundle: Option<&str>) -> Transport {
    observed(url, ca_bundle, nothing_observed())
}

fn observed(url: &str, ca_bundle: Option<&str>, observer: Observer) -> Transport {
    let endpoint = Endpoint::parse(url, Some("acme"), ca_bundle.map(str::as_bytes)).unwrap();
    let hosts = Hosts::new(vec!["127.0.0.0/8".parse().unwrap(), "localhost".parse().unwrap()], true);
    hosts.check(&endpoint.url).unwrap();
    Transport::with(reqwest::Client::builder().no_proxy(), &endpoint, token(), &hosts, observer).unwrap()
}

fn get() -> Call<'static> {
    let limits = Limits { time: Duration::from_secs(10), bytes: 4096 };
    Call {
        operation: "read_key",
        method: Method::GET,
        path: vec!["setup-keys", "a/b"],
        query: None,
        body: None,
        limits,
    }
}

fn number(body: &[u8]) -> Option<u32> {
    serde_json::from_slice(body).ok()
}

fn http(status: u16, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len())
}

const JSON: &str = "content-type: application/json; charset=UTF-8\r\n";

#[tokio::test]
async fn a_call_has_the_account_the_token_and_a_name_of_its_own() {
    let mut server = Server::answering(http(200, JSON, "7")).await;
    let client = client(&server.url("http", "127.0.0.1"), None);
    let call = Call { query: Some(("service_user", "true")), method: Method::PUT, body: Some(b"{}".to_vec()), ..get() };
    assert_eq!(client.call(call, number).await, Ok(7));
    let request = server.requests.recv().await.unwrap();
    let (line, headers) = request.split_once("\r\n").unwrap();
    assert_eq!(line, "PUT /api/setup-keys/a%2Fb?service_user=true&account=acme HTTP/1.1");
    let version = env!("CARGO_PKG_VERSION");
    for header in [
        format!("authorization: Token {TOKEN}"),
        format!("user-agent: setupkey-operator/{version}"),
        "content-type: application/json".to_owned(),
    ] {
        assert!(headers.lines().any(|line| line == header), "{header} is not in {headers}");
    }
}

#[tokio::test]
async fn an_answer_that_is_not_netbirds_is_none() {
    let not_netbird = Error::NotNetBird { retry_after: None };
    let problem = r#"{"message":"setup key: x not found","code":404}"#;
    for (answer, error) in [
        (http(200, "content-type: text/html\r\n", "<html>"), not_netbird.clone()),
        (http(200, "content-type: text/plain\r\n", "7"), not_netbird.clone()),
        (http(200, JSON, "<html>"), not_netbird.clone()),
        (http(200, "", "7"), not_netbird.clone()),
        (http(204, "", ""), not_netbird.clone()),
        (http(302, "location: http://127.0.0.1:1/\r\n", ""), not_netbird.clone()),
        (http(401, "content-type: text/html\r\n", "<html>"), not_netbird.clone()),
        (http(404, "content-type: text/plain\r\n", "404 page not found"), not_netbird.clone()),
        (http(404, JSON, r#"{"message":"no route"}"#), not_netbird.clone()),
        (http(400, JSON, problem), not_netbird.clone()),
        (http(404, JSON, problem), Error::NotFound("setup key: x not found".to_owned())),
        (http(503, "retry-after: 7\r\n", "busy"), Error::NotNetBird { retry_after: Some(Duration::from_secs(7)) }),
        (http(429, "retry-after: 8\r\n", "slower"), Error::RateLimited { retry_after: Some(Duration::from_secs(8)) }),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n1".to_owned(), Error::Unreachable),
        ("SSH-2.0-OpenSSH_9.9\r\n".to_owned(), Error::Unreachable),
        (String::new(), Error::Unreachable),
        (http(200, JSON, &"1".repeat(5000)), Error::TooLarge),
        (
            format!(
                "HTTP/1.1 200 OK\r\n{JSON}transfer-encoding: chunked\r\n\r\n1388\r\n{}\r\n0\r\n\r\n",
                "1".repeat(5000)
            ),
            Error::TooLarge,
        ),
    ] {
        let server = Server::answering(answer.clone()).await;
        let client = client(&server.url("http", "127.0.0.1"), None);
        assert_eq!(client.call(get(), number).await, Err(error), "{answer:.200}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let mut target = Server::answering(http(200, JSON, "7")).await;
    let location = format!("location: {}/\r\n", target.url("http", "127.0.0.1"));
    for status in [301, 302, 303, 307, 308] {
        let server = Server::answering(http(status, &location, "")).await;
        let client = client(&server.url("http", "127.0.0.1"), None);
        assert_eq!(client.call(get(), number).await, Err(Error::NotNetBird { retry_after: None }));
    }
    assert!(target.requests.try_recv().is_err(), "the token was sent to another host");
}

#[tokio::test]
async fn a_host_tells_nothing_but_that_it_is_no_netbird() {
    let mute = Server::start(Vec::new(), None, Duration::from_secs(60)).await;
    let call = || Call { limits: Limits { time: Duration::from_millis(300), bytes: 100 }, ..get() };
    let timeout = client(&mute.url("http", "127.0.0.1"), None).call(call(), number).await.unwrap_err();
    assert_eq!(timeout, Error::Timeout);

    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let closed = format!("http://127.0.0.1:{}", listener.local_addr().unwrap().port());
    drop(listener);
    let refused = client(&closed, None).call(get(), number).await.unwrap_err();
    assert_eq!(refused, Error::Unreachable);

    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let mail = format!("https://127.0.0.1:{}", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"220 mail.example.com ESMTP\r\n").await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    let no_tls = client(&mail, None).call(get(), number).await.unwrap_err();
    assert_eq!(no_tls, Error::Unreachable);
    let page = Error::NotNetBird { retry_after: None };
    for error in [timeout, refused, no_tls, page, Error::TooLarge] {
        assert_eq!(error.to_string(), "the host did not answer as a NetBird server");
        assert_eq!(error.reason(), Some("Unreachable"));
    }
}

#[tokio::test]
async fn an_answer_that_trickles_has_the_same_limit_as_one_that_never_comes() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://127.0.0.1:{}", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_u8().await.unwrap();
        let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\n{JSON}content-length: 4000\r\n\r\n").as_bytes()).await;
        while stream.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let call = Call { limits: Limits { time: Duration::from_millis(500), bytes: 4096 }, ..get() };
    assert_eq!(client(&url, None).call(call, number).await, Err(Error::Timeout));
}

fn certificate_for(name: &str) -> (String, TlsAcceptor) {
    let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    (cert.pem(), TlsAcceptor::from(Arc::new(config)))
}

#[tokio::test]
async fn a_server_is_trusted_with_the_bundle_of_its_authority_alone() {
    let (pem, tls) = certificate_for("127.0.0.1");
    let server = Server::start(http(200, JSON, "7").into(), Some(tls), Duration::ZERO).await;
    let url = server.url("https", "127.0.0.1");
    assert_eq!(client(&url, Some(&pem)).call(get(), number).await, Ok(7));

    let error = client(&url, None).call(get(), number).await.unwrap_err();
    assert_eq!(error, Error::Certificate("its issuer is not known; netbird.caBundle can hold it"));
    assert_eq!(error.reason(), Some("CertificateInvalid"));
}

#[tokio::test]
async fn a_certificate_for_another_host_is_not_trusted_and_its_names_are_not_told() {
    let (pem, tls) = certificate_for("payroll.internal");
    let server = Server::start(http(200, JSON, "7").into(), Some(tls), Duration::ZERO).await;
    let error = client(&server.url("https", "localhost"), Some(&pem)).call(get(), number).await.unwrap_err();
    assert_eq!(error.to_string(), "the server's certificate cannot be trusted: it is for another host");
}

#[tokio::test]
async fn a_name_that_leads_to_this_machine_is_not_called() {
    let mut server = Server::answering(http(200, JSON, "7")).await;
    let endpoint = Endpoint::parse(&server.url("http", "localhost"), None, None).unwrap();
    for (listed, outcome) in [(vec![], None), (vec!["localhost".parse().unwrap()], Some(7))] {
        // The check of the name is left out: it refuses localhost before the resolver does.
        let (builder, hosts) = (reqwest::Client::builder().no_proxy(), Hosts::new(listed, true));
        let client = Transport::with(builder, &endpoint, token(), &hosts, nothing_observed()).unwrap();
        match outcome {
            Some(answer) => assert_eq!(client.call(get(), number).await, Ok(answer)),
            None => {
                let error = client.call(get(), number).await.unwrap_err();
                assert_eq!(error.reason(), Some("HostRefused"), "{error:?}");
                assert!(server.requests.try_recv().is_err(), "it was called");
            }
        }
    }
}

#[tokio::test]
async fn a_proxy_may_be_on_this_machine() {
    let mut proxy = Server::answering(http(200, JSON, "7")).await;
    let builder = reqwest::Client::builder().proxy(Proxy::all(proxy.url("http", "localhost")).unwrap());
    let endpoint = Endpoint::parse("http://netbird.example.com", None, None).unwrap();
    let hosts = Hosts::new(vec![], true);
    let client = Transport::with(builder, &endpoint, token(), &hosts, nothing_observed()).unwrap();
    assert_eq!(client.call(get(), number).await, Ok(7));
    let request = proxy.requests.recv().await.unwrap();
    assert!(request.starts_with("GET http://netbird.example.com/api/setup-keys/a%2Fb HTTP/1.1\r\n"), "{request}");
}

#[tokio::test]
async fn four_calls_run_at_a_time() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let client = client(&format!("http://127.0.0.1:{}", listener.local_addr().unwrap().port()), None);
    let (running, peak) = (Arc::clone(&now), Arc::clone(&most));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (running, peak) = (Arc::clone(&running), Arc::clone(&peak));
            tokio::spawn(async move {
                peak.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                let answer = http(200, JSON, "7");
                let (head, body) = answer.split_at(20);
                tokio::time::sleep(Duration::from_millis(100)).await;
                running.fetch_sub(1, Ordering::SeqCst);
                serve(stream, format!("{head}{body}").as_bytes(), Duration::ZERO).await;
            });
        }
    });
    let answers = futures::future::join_all((0..12).map(|_| client.call(get(), number))).await;
    assert_eq!(answers, vec![Ok(7); 12]);
    assert_eq!(most.load(Ordering::SeqCst), IN_FLIGHT);
}

#[tokio::test]
async fn every_call_is_observed_once() {
    let seen: Arc<Mutex<Vec<(&str, String)>>> = Arc::default();
    for answer in [
        http(200, JSON, "7"),
        http(200, JSON, "{}"),
        http(502, "", "<html>"),
        http(404, JSON, r#"{"message":"m","code":404}"#),
        String::new(),
    ] {
        let server = Server::answering(answer).await;
        let observer = {
            let seen = Arc::clone(&seen);
            move |operation, code: &str, seconds: f64| {
                assert!((0.0..10.0).contains(&seconds), "{seconds}");
                seen.lock().unwrap().push((operation, code.to_owned()));
            }
        };
        let client = observed(&server.url("http", "127.0.0.1"), None, Arc::new(observer));
        let _ = client.call(get(), number).await;
    }
    let codes: Vec<_> = seen.lock().unwrap().iter().map(|(operation, code)| format!("{operation} {code}")).collect();
    let expected = ["200", "unreadable", "502", "404", "unreachable"].map(|code| format!("read_key {code}"));
    assert_eq!(codes, expected);
}
