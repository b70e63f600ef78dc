//! The connection to the API server.

use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper_timeout::TimeoutConnector;
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use kube::{
    Config,
    client::{Body, ClientBuilder, ConfigExt, DynBody},
};
use tower::{BoxError, ServiceBuilder, ServiceExt, util::BoxService};

/// How long a connection may be silent before it is tried, and how often and for how long that is.
const KEEPALIVE: (Duration, u32, Duration) = (Duration::from_secs(30), 3, Duration::from_secs(5));

/// What sends the requests of a client, below its layers.
pub type Connection = BoxService<Request<Body>, Response<Box<DynBody>>, BoxError>;

/// The client of this configuration, which takes further layers.
///
/// kube's own connections let the system gather small writes (Nagle's algorithm). The first request on a connection then waits
/// until the server has acknowledged the end of the TLS handshake, which Linux delays by 40 ms. So connections without a proxy
/// are made here: they send at once, and have TCP's keepalive. Those through a proxy are kube's.
pub fn connect(config: Config) -> kube::Result<ClientBuilder<Connection>> {
    if config.proxy_url.is_some() {
        return ClientBuilder::try_from(config);
    }
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(tcp())?);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_read_timeout(config.read_timeout);
    connector.set_write_timeout(config.write_timeout);
    connector.set_reset_reader_on_write(config.reset_reader_on_write);
    let http: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http)
        .map_response(|answer| answer.map(|body| Box::new(body.map_err(BoxError::from)) as Box<DynBody>));
    Ok(ClientBuilder::new(BoxService::new(service), config.default_namespace))
}

/// Makes the TCP connections, below TLS.
fn tcp() -> HttpConnector {
    let (idle, tries, pause) = KEEPALIVE;
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_keepalive(Some(idle));
    connector.set_keepalive_retries(Some(tries));
    connector.set_keepalive_interval(Some(pause));
    connector
}

#[cfg(test)]
mod tests {
    use socket2::SockRef;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_sends_at_once_and_is_tried_when_it_is_silent() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("https://{}", listener.local_addr().unwrap()).parse().unwrap();
        let connection = tcp().oneshot(server).await.unwrap();
        let connection = connection.inner();
        assert!(connection.nodelay().unwrap());
        assert!(SockRef::from(connection).keepalive().unwrap());
    }
}
