//! Tests of lives and their ends.

use std::io;
use std::path::Path;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use tokio::io::AsyncWriteExt;

use super::super::disk::{Disk, Locked};
use super::tests::{AT, DELAY, HERE, THERE, Two, read_to_error};
use super::*;

/// What a future gives at once; `None` if it waits.
fn now_or_never<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => None,
    }
}

fn kill(two: &Two, host: IpAddr, how: Kill) {
    two.network.kill(host, how, |_| false, Unsynced::Empty);
}

#[tokio::test(start_paused = true)]
async fn a_killed_process_resets_its_connections_and_refuses_dials() {
    let two = Two::new().await;
    let (mut near, far) = two.connection().await;
    // One more waits to be accepted.
    let mut waiting = two.here.sockets.connect(AT).await.unwrap();
    let began = Instant::now();
    kill(&two, THERE, Kill::Process);
    assert_eq!(
        read_to_error(&mut near).await,
        io::ErrorKind::ConnectionReset
    );
    assert_eq!(
        read_to_error(&mut waiting).await,
        io::ErrorKind::ConnectionReset
    );
    assert_eq!(began.elapsed(), DELAY);
    let refused = two.here.sockets.connect(AT).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    drop(far);
}

#[tokio::test(start_paused = true)]
async fn after_a_power_cut_old_connections_are_silent_until_the_next_life_resets_them() {
    let two = Two::new().await;
    let (mut near, far) = two.connection().await;
    kill(&two, THERE, Kill::Power);
    drop(far);
    let silence = tokio::time::timeout(Duration::from_secs(3_600), near.readable());
    assert!(silence.await.is_err());
    let _world = two.network.world(THERE);
    let silence = tokio::time::timeout(Duration::from_secs(3_600), near.readable());
    assert!(silence.await.is_err());
    let began = Instant::now();
    near.write_all(&[1]).await.unwrap();
    assert_eq!(
        read_to_error(&mut near).await,
        io::ErrorKind::ConnectionReset
    );
    assert_eq!(began.elapsed(), 2 * DELAY);
}

#[tokio::test(start_paused = true)]
async fn what_a_host_without_power_was_sent_is_answered_once_it_is_back() {
    let two = Two::new().await;
    let (mut near, _far) = two.connection().await;
    let began = Instant::now();
    kill(&two, THERE, Kill::Power);
    near.write_all(&[1]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let _world = two.network.world(THERE);
    assert_eq!(
        read_to_error(&mut near).await,
        io::ErrorKind::ConnectionReset
    );
    assert_eq!(began.elapsed(), Duration::from_millis(200) + 2 * DELAY);
}

#[tokio::test(start_paused = true)]
async fn nothing_of_a_killed_life_works_any_more() {
    for how in [Kill::Process, Kill::Power] {
        let two = Two::new().await;
        let (near, far) = two.connection().await;
        near.try_write(&[1; 100]).unwrap();
        let connect = two.there.sockets.connect(SocketAddr::new(HERE, 80));
        let mut dial = Box::pin(connect);
        assert!(now_or_never(dial.as_mut()).is_none());
        let read = async {
            let error = far.readable().await.and_then(|()| far.receive(&mut [0]));
            error.unwrap_err().kind()
        };
        let (read, ()) = tokio::join!(biased; read, async { kill(&two, THERE, how) });
        assert_eq!(read, io::ErrorKind::ConnectionReset);
        // The next life changes nothing for the one before.
        let later = two.network.world(THERE);
        let port = later.sockets.bind(AT).await.unwrap();
        let broken = far.try_write(&[1]).unwrap_err();
        assert_eq!(broken.kind(), io::ErrorKind::BrokenPipe);
        far.writable().await.unwrap();
        assert_eq!(dial.await.unwrap_err().kind(), io::ErrorKind::NetworkDown);
        let sockets = &two.there.sockets;
        let dial = sockets.connect(SocketAddr::new(HERE, 80)).await;
        assert_eq!(dial.unwrap_err().kind(), io::ErrorKind::NetworkDown);
        let bind = sockets.bind(SocketAddr::new(THERE, 81)).await;
        assert_eq!(bind.err().unwrap().kind(), io::ErrorKind::NetworkDown);
        assert_eq!(sockets.local_address(AT), None);
        let (dialled, accepted) = tokio::join!(two.here.sockets.connect(AT), port.accept());
        dialled.unwrap();
        accepted.unwrap();
        assert!(now_or_never(two.listener.accept()).is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_left_of_a_killed_life_ends_without_a_word() {
    let two = Two::new().await;
    let (near, far) = two.connection().await;
    kill(&two, THERE, Kill::Power);
    let later = two.network.world(THERE);
    let port = later.sockets.bind(AT).await.unwrap();
    let before = two.network.log().len();
    drop((far, two.listener, two.there));
    assert_eq!(two.network.log().len(), before);
    let silence = tokio::time::timeout(Duration::from_secs(3_600), near.readable());
    assert!(silence.await.is_err());
    let (dialled, accepted) = tokio::join!(two.here.sockets.connect(AT), port.accept());
    dialled.unwrap();
    accepted.unwrap();
}

/// What is in the file, if there is one.
fn content(disk: &Disk, name: &str) -> Option<Vec<u8>> {
    disk.read(Path::new(name), 100).ok()
}

#[tokio::test(start_paused = true)]
async fn a_killed_life_does_not_reach_the_disk_of_the_next() {
    for how in [Kill::Process, Kill::Power] {
        let two = Two::new().await;
        let old = &two.there.disk;
        let lock = old.lock(Path::new("/lock")).unwrap();
        let mut open = old.create(Path::new("/file"), 0o600).unwrap();
        assert_eq!(open.write(b"some").unwrap(), 4);
        if how == Kill::Power {
            old.sync_dir(Path::new("/")).unwrap();
        }
        kill(&two, THERE, how);
        let new = two.network.world(THERE).disk;
        let left: &[u8] = match how {
            Kill::Process => b"some",
            Kill::Power => b"",
        };
        assert_eq!(content(&new, "/file").unwrap(), left);
        assert!(open.write(b"more").is_err());
        assert!(old.create(Path::new("/late"), 0o600).is_err());
        let held = new.lock(Path::new("/lock")).unwrap();
        assert!(matches!(held, Locked::Held(_)), "{how:?}");
        drop(lock);
        let taken = new.lock(Path::new("/lock")).unwrap();
        assert!(matches!(taken, Locked::Taken(_)), "{how:?}");
        assert_eq!(content(&new, "/file").unwrap(), left);
        assert_eq!(content(&new, "/late"), None);
        assert_eq!(
            two.network.disk(THERE).names(),
            ["/file", "/lock"].map(Into::<std::path::PathBuf>::into)
        );
    }
}
