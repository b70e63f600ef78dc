//! The connection to the API server.

use std::time::Duration;

use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder, ConfigExt},
};
use setupkey_operator::cluster::pages::LimitPages;
use tower::{BoxError, ServiceBuilder};

/// How long a connection may be silent before it is tried, and how often and for how long that is.
const KEEPALIVE: (Duration, u32, Duration) = (Duration::from_secs(30), 3, Duration::from_secs(5));

/// A client with this configuration.
///
/// That of kube lets the system gather small writes (Nagle's algorithm). The first request then waits until the server has
/// acknowledged the end of the TLS handshake, which Linux delays by 40 ms: most of the time that a verb takes. So the way without
/// a proxy is built here, and sends at once. It has no read timeout: each call has a limit of its own, and a watch is kept by
/// TCP's keepalive.
pub fn client(config: Config) -> kube::Result<Client> {
    if config.proxy_url.is_some() {
        return Ok(ClientBuilder::try_from(config)?.with_layer(&LimitPages).build());
    }
    let (idle, tries, pause) = KEEPALIVE;
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_keepalive(Some(idle));
    connector.set_keepalive_retries(Some(tries));
    connector.set_keepalive_interval(Some(pause));
    let connector = config.rustls_https_connector_with_connector(connector)?;
    let http: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new()
        .layer(LimitPages)
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace))
}
