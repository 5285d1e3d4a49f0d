//! Tests of ways that are blocked or lossy, and of lines.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use super::tests::{AT, DELAY, HERE, THERE, Two, read_to_error};
use super::*;

const MS: Duration = Duration::from_millis(1);

#[tokio::test(start_paused = true)]
async fn what_a_partition_holds_up_comes_at_the_first_try_after_it() {
    let two = Two::new().await;
    let (mut near, mut far) = two.connection().await;
    let partition = two.network.part(&[HERE], &[THERE]);
    let began = Instant::now();
    near.write_all(b"one").await.unwrap();
    far.write_all(b"other").await.unwrap();
    sleep(300 * MS).await;
    near.write_all(b" two").await.unwrap();
    near.shutdown().await.unwrap();
    two.network.join(partition);
    // Tries are after 200 ms and 400 ms more.
    let (mut there, mut here) = (Vec::new(), [0; 5]);
    far.read_to_end(&mut there).await.unwrap();
    near.read_exact(&mut here).await.unwrap();
    assert_eq!((&there[..], &here), (&b"one two"[..], b"other"));
    assert_eq!(began.elapsed(), 600 * MS + DELAY);
}

#[tokio::test(start_paused = true)]
async fn a_partition_parts_only_those_that_it_names() {
    let two = Two::new().await;
    let third: IpAddr = [3, 0, 0, 1].into();
    let world = two.network.world(third);
    let partitions = [
        two.network.part(&[THERE, third], &[HERE]),
        two.network.part(&[HERE], &[THERE]),
    ];
    world.sockets.connect(AT).await.unwrap();
    let dial = || timeout(3 * DELAY, two.here.sockets.connect(AT));
    assert!(dial().await.is_err());
    two.network.join(partitions[1]);
    assert!(dial().await.is_err());
    two.network.join(partitions[0]);
    assert!(dial().await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_is_on_its_way_when_a_cable_is_pulled_is_sent_again() {
    let two = Two::new().await;
    let (mut near, mut far) = two.connection().await;
    let began = Instant::now();
    near.write_all(b"lost").await.unwrap();
    sleep(DELAY / 2).await;
    two.network.silence(THERE, true);
    sleep(DELAY).await;
    two.network.silence(THERE, false);
    let mut got = [0; 4];
    far.read_exact(&mut got).await.unwrap();
    assert_eq!(began.elapsed(), DELAY + 200 * MS + DELAY);
}

#[tokio::test(start_paused = true)]
async fn a_reset_that_answers_bytes_gets_through_in_the_end() {
    let two = Two::new().await;
    let (mut near, far) = two.connection().await;
    drop(far);
    sleep(DELAY).await;
    let began = Instant::now();
    near.write_all(&[1]).await.unwrap();
    sleep(DELAY + DELAY / 2).await;
    two.network.silence(HERE, true);
    sleep(500 * MS).await;
    assert!(near.try_write(&[1]).is_ok());
    two.network.silence(HERE, false);
    sleep(600 * MS + 2 * DELAY - began.elapsed()).await;
    let late = near.try_write(&[1]).unwrap_err();
    assert_eq!(late.kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test(start_paused = true)]
async fn a_pulled_cable_leaves_the_host_to_itself() {
    let two = Two::new().await;
    two.network.silence(THERE, true);
    assert!(two.there.sockets.connect(AT).await.is_ok());
    let Names::Given(names) = &two.there.names else {
        panic!()
    };
    let answer = timeout(Duration::from_secs(60), names.lookup("there.example"));
    assert!(answer.await.is_err());
}

#[tokio::test(start_paused = true)]
async fn after_15_minutes_in_vain_the_writer_gets_an_error_and_nobody_else() {
    let two = Two::new().await;
    let (mut near, far) = two.connection().await;
    two.network.silence(HERE, true);
    let began = Instant::now();
    near.write_all(&[1]).await.unwrap();
    assert_eq!(read_to_error(&mut near).await, io::ErrorKind::TimedOut);
    assert_eq!(began.elapsed().as_secs(), 15 * 60);
    let late = near.try_write(&[1]).unwrap_err();
    assert_eq!(late.kind(), io::ErrorKind::TimedOut);
    drop(near);
    two.network.silence(HERE, false);
    assert!(
        timeout(Duration::from_secs(3_600), far.readable())
            .await
            .is_err()
    );
}

#[tokio::test(start_paused = true)]
async fn a_dial_is_tried_again_and_given_up_after_127_s() {
    let two = Two::new().await;
    let dial = async || {
        let began = Instant::now();
        let dialled = two.here.sockets.connect(AT).await;
        (dialled.map(drop).map_err(|it| it.kind()), began.elapsed())
    };
    let heals = async {
        two.network.silence(THERE, true);
        sleep(Duration::from_secs(4)).await;
        two.network.silence(THERE, false);
    };
    let ((), dialled) = tokio::join!(biased; heals, dial());
    assert_eq!(dialled, (Ok(()), Duration::from_secs(7) + 2 * DELAY));
    two.network.silence(THERE, true);
    let given_up = (Err(io::ErrorKind::TimedOut), Duration::from_secs(127));
    assert_eq!(dial().await, given_up);
}
