//! tokio-postgres, in the clear and inside direct TLS. Knows its API alone.

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_postgres::config::ChannelBinding;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, IsolationLevel, NoTls};

use crate::house::{Login, Postgres, Proxy, tls};

fn config(login: &Login) -> Config {
    let mut config = Config::new();
    config
        .host("127.0.0.1")
        .port(login.address.port())
        .user(&login.user)
        .password(&login.password)
        .dbname(&login.database)
        .channel_binding(ChannelBinding::Disable);
    config
}

async fn over<S>(login: &Login, stream: S) -> Client
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (client, connection) = config(login).connect_raw(stream, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn in_the_clear(login: &Login) -> Client {
    over(login, TcpStream::connect(login.address).await.unwrap()).await
}

async fn inside_tls(login: &Login) -> Client {
    let stream = TcpStream::connect(login.address).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let connector = tokio_rustls::TlsConnector::from(tls::trusting(&["postgresql"]));
    over(login, connector.connect(name, stream).await.unwrap()).await
}

async fn session(address: SocketAddr, client: &mut Client) {
    let sum = client
        .query_one("SELECT $1::int + $2", &[&1i32, &2i32])
        .await
        .unwrap();
    assert_eq!(sum.get::<_, i32>(0), 3);
    client
        .batch_execute("DROP TABLE IF EXISTS notes; CREATE TABLE notes (id int PRIMARY KEY)")
        .await
        .unwrap();
    let transaction = client.transaction().await.unwrap();
    transaction
        .execute("INSERT INTO notes VALUES (1)", &[])
        .await
        .unwrap();
    transaction.commit().await.unwrap();
    let transaction = client
        .build_transaction()
        .isolation_level(IsolationLevel::Serializable)
        .start()
        .await
        .unwrap();
    let twice = transaction
        .execute("INSERT INTO notes VALUES (1)", &[])
        .await;
    assert_eq!(twice.unwrap_err().code(), Some(&SqlState::UNIQUE_VIOLATION));
    transaction.rollback().await.unwrap();
    let statement = client
        .prepare("SELECT id FROM notes WHERE id = $1")
        .await
        .unwrap();
    for _ in 0..20 {
        assert_eq!(client.query(&statement, &[&1i32]).await.unwrap().len(), 1);
    }
    let transaction = client.transaction().await.unwrap();
    let portal = transaction
        .bind("SELECT generate_series(1, 10)", &[])
        .await
        .unwrap();
    assert_eq!(transaction.query_portal(&portal, 4).await.unwrap().len(), 4);
    assert_eq!(transaction.query_portal(&portal, 0).await.unwrap().len(), 6);
    transaction.commit().await.unwrap();
    let cancel = client.cancel_token();
    let (stopped, ()) = tokio::join!(client.batch_execute("SELECT pg_sleep(30)"), async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let socket = TcpStream::connect(address).await.unwrap();
        cancel.cancel_query_raw(socket, NoTls).await.unwrap();
    });
    assert_eq!(stopped.unwrap_err().code(), Some(&SqlState::QUERY_CANCELED));
    client.simple_query("SELECT 1").await.unwrap();
}

async fn work(login: Login, n: i32) {
    let mut client = in_the_clear(&login).await;
    for _ in 0..20 {
        let transaction = client.transaction().await.unwrap();
        let row = transaction
            .query_one("SELECT $1::int * 2", &[&n])
            .await
            .unwrap();
        assert_eq!(row.get::<_, i32>(0), n * 2);
        transaction.commit().await.unwrap();
    }
}

#[test]
fn tokio_postgres() {
    let postgres = Postgres::shared();
    let proxy = Proxy::before(postgres, &postgres.database(), 2).start();
    let login = proxy.login();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        session(login.address, &mut in_the_clear(&login).await).await;
        let mut private = inside_tls(&login).await;
        let one = private.transaction().await.unwrap();
        one.query_one("SELECT $1::int", &[&1i32]).await.unwrap();
        one.commit().await.unwrap();
        drop(private);
        let workers: Vec<_> = (0..10)
            .map(|n| tokio::spawn(work(login.clone(), n)))
            .collect();
        for worker in workers {
            worker.await.unwrap();
        }
    });
}
