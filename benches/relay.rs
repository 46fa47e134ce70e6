//! A bare relay: one server connection per client, bytes copied both ways. The floor that a pooler's CPU time is measured against.
//!
//! Understands nothing of PostgreSQL or TLS: `relay LISTEN TARGET`, both as `address:port`.

use std::io;
use std::process::ExitCode;

use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream};

/// As much as one `recv` may bring; PostgreSQL itself sends 8 KiB at a time.
const BUFFER_BYTES: usize = 16 * 1024;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, target] = arguments.as_slice() else {
        eprintln!("usage: relay LISTEN TARGET");
        return ExitCode::from(2);
    };
    match run(listen, target) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("relay: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(listen: &str, target: &str) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(listen).await?;
        loop {
            let (client, _) = listener.accept().await?;
            let target = target.to_owned();
            tokio::spawn(async move {
                // Either side may go at any time: that ends this pair and concerns nobody else.
                let _ = relay(client, &target).await;
            });
        }
    })
}

async fn relay(mut client: TcpStream, target: &str) -> io::Result<()> {
    let mut server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER_BYTES, BUFFER_BYTES).await?;
    Ok(())
}
