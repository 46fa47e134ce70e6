//! Questions asked on a connection between two leases.

use weir::config::SslMode::{Disable, Require};
use weir::net::Stream;
use weir::protocol::reply::TxStatus;
use weir::server::simple::{AskError, query};

use super::{app, enter, postgres, target};

async fn stream(mode: weir::config::SslMode) -> Stream {
    let target = target(postgres().address, mode, None);
    enter(&target, &app()).await.unwrap().stream
}

#[tokio::test]
async fn an_answer_is_read_to_its_end() {
    for mode in [Disable, Require] {
        let mut stream = stream(mode).await;
        let several = "SELECT 1, NULL, ''; ; CREATE TEMP TABLE t(); BEGIN; SET TimeZone = 'Asia/Tokyo'; SELECT 2";
        let answer = query(&mut stream, several).await.unwrap();
        assert_eq!(answer.status, TxStatus::InTransaction);
        let text = |text: &str| Some(text.as_bytes().to_vec());
        assert_eq!(answer.rows[0], [text("1"), None, text("")]);
        assert_eq!(answer.rows[1], [text("2")]);
        assert_eq!(
            answer.parameters.value(b"TimeZone"),
            Some(&b"Asia/Tokyo"[..])
        );

        let answer = query(&mut stream, "ROLLBACK").await.unwrap();
        assert_eq!(answer.status, TxStatus::Idle);
        assert_eq!(answer.parameters.value(b"TimeZone"), Some(&b"UTC"[..]));
        let answer = query(&mut stream, "DISCARD ALL").await.unwrap();
        assert_eq!(answer.status, TxStatus::Idle);
        let answer = query(&mut stream, "").await.unwrap();
        assert_eq!(answer.rows.len(), 0);
    }
}

#[tokio::test]
async fn what_is_no_answer() {
    let refused = async |sql| match query(&mut stream(Disable).await, sql).await {
        Err(AskError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    };
    assert_eq!(&refused("SELECT 1/0").await.sqlstate(), b"22012");
    let ended = refused("SELECT pg_terminate_backend(pg_backend_pid())").await;
    assert_eq!(&ended.sqlstate(), b"57P01");
    assert!(ended.is_fatal());
    let all = "SELECT repeat('x', 1000) FROM generate_series(1, 1000)";
    let error = query(&mut stream(Require).await, all).await.unwrap_err();
    assert!(error.to_string().contains("more than"), "{error}");
    let error = query(&mut stream(Disable).await, "COPY (SELECT 1) TO STDOUT").await;
    assert!(
        matches!(error, Err(AskError::Unexpected { tag: b'H' })),
        "{error:?}"
    );
}

#[tokio::test]
async fn rows_longer_than_a_read_come_whole() {
    for mode in [Disable, Require] {
        let mut stream = stream(mode).await;
        for length in [1, 4090, 4096, 5000, 100_000] {
            let sql = format!("SELECT repeat('x', {length}); SELECT 7");
            let answer = query(&mut stream, &sql).await.unwrap();
            assert_eq!(answer.rows[0][0].as_ref().unwrap().len(), length);
            assert_eq!(answer.rows[1][0].as_deref(), Some(&b"7"[..]));
        }
    }
}
