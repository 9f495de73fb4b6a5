use std::task::Waker;

use bytes::Bytes;

use super::*;

fn answers(pages: (usize, usize), unread: Duration) -> Arc<Answers> {
    let bounds = Bounds { pages, singles: (64 << 10, 32 << 10), calls: (4, 3), unread };
    Arc::new(Answers::new(bounds))
}

fn peer(port: u16) -> Peer {
    Peer { address: ([127, 0, 0, 1], port).into(), identity: None }
}

/// What the transport is given next.
fn give(answer: &Arc<Answer>) -> std::task::Poll<Option<Result<Bytes, Failure>>> {
    answer.give(&mut std::task::Context::from_waker(Waker::noop()))
}

fn given(answer: &Arc<Answer>) -> Bytes {
    match give(answer) {
        std::task::Poll::Ready(Some(Ok(bytes))) => bytes,
        other => panic!("{other:?}"),
    }
}

/// G12: so many calls of one caller, and of all; one that has ended makes room.
#[test]
fn so_many_calls_of_one_and_of_all() {
    let answers = answers((PAGE_BYTES, PAGE_BYTES), Duration::MAX);
    let mut mallory: Vec<_> = (0..3).map(|_| answers.begin(Some(&peer(1))).unwrap()).collect();
    let refused = answers.begin(Some(&peer(1))).unwrap_err();
    assert_eq!((refused.code, refused.retry_after), (Code::RateLimited, Some(RETRY)));
    let other = answers.begin(Some(&peer(2))).unwrap();
    answers.begin(Some(&peer(3))).unwrap_err();
    mallory.pop();
    answers.begin(Some(&peer(3))).unwrap();
    drop((mallory, other));
    let inner = answers.lock();
    assert_eq!((inner.calls, inner.parts.len()), (0, 0));
}

/// The transport has one part at a time, and the bytes are those that were written.
#[test]
fn the_transport_has_one_part_at_a_time() {
    let answers = answers((PAGE_BYTES, PAGE_BYTES), Duration::MAX);
    let answer = answers.begin(None).unwrap();
    let whole: Bytes = (0..PART_BYTES + 7).map(|at| at as u8).collect();
    answer.put(whole.clone()).unwrap();
    let first = given(&answer);
    assert!(give(&answer).is_pending(), "the first was not taken");
    assert_eq!(first, whole[..PART_BYTES]);
    drop(first);
    assert_eq!(given(&answer), whole[PART_BYTES..]);
    assert!(matches!(give(&answer), std::task::Poll::Ready(None)));
    assert_eq!(answers.node.singles.available_permits(), 64 << 10, "all was given back");
}

/// G12: a single answer for which there is no room is refused, and a small one never.
#[test]
fn a_single_answer_without_room_is_refused() {
    let answers = answers((PAGE_BYTES, PAGE_BYTES), Duration::MAX);
    let large = || Bytes::from(vec![7; 20 << 10]);
    let one = answers.begin(Some(&peer(1))).unwrap();
    one.put(large()).unwrap();
    let two = answers.begin(Some(&peer(1))).unwrap();
    assert_eq!(two.put(large()).unwrap_err().code, Code::RateLimited);
    two.put(Bytes::from_static(b"small")).unwrap();
    let other = answers.begin(Some(&peer(2))).unwrap();
    other.put(large()).unwrap();
}

/// G12: who does not read keeps nobody waiting for ever, neither his own streams nor those of others, and is told.
#[tokio::test]
async fn who_does_not_read_gives_way() {
    let answers = answers((PAGE_BYTES, PAGE_BYTES), Duration::ZERO);
    for next in [1, 2] {
        let unread = answers.begin(Some(&peer(1))).unwrap();
        Room::of(&unread).take().await;
        unread.put(vec![7; PAGE_BYTES].into()).unwrap();
        let in_transport = given(&unread);
        let waits = answers.begin(Some(&peer(next))).unwrap();
        Room::of(&waits).take().await;
        let std::task::Poll::Ready(Some(Err(told))) = give(&unread) else { panic!("it has ended") };
        assert_eq!((told.code, told.retry_after), (Code::RateLimited, Some(RETRY)));
        assert!(told.help.contains("read on from the last position"), "{}", told.help);
        drop(in_transport);
    }
}

/// Only who has taken nothing for so long gives way.
#[test]
fn there_is_time_to_read() {
    let answers = answers((PAGE_BYTES, PAGE_BYTES), Duration::MAX);
    let answer = answers.begin(None).unwrap();
    answer.put(vec![7; 20 << 10].into()).unwrap();
    let (begun, unread) = (Instant::now(), Duration::from_secs(10));
    answer.end_if_unread(begun + unread / 2, unread);
    drop(given(&answer));
    answer.end_if_unread(begun + unread, unread);
    assert!(matches!(give(&answer), std::task::Poll::Ready(Some(Ok(_)))), "some of it was taken");
    let other = answers.begin(None).unwrap();
    other.put(vec![7; 20 << 10].into()).unwrap();
    other.end_if_unread(Instant::now() + unread, unread);
    assert!(matches!(give(&other), std::task::Poll::Ready(Some(Err(_)))));
}

/// What was read of small entries holds what it is, and not what it might have been.
#[tokio::test]
async fn a_small_page_holds_little() {
    let answers = answers((PAGE_BYTES, PAGE_BYTES), Duration::MAX);
    let small = answers.begin(Some(&peer(1))).unwrap();
    Room::of(&small).take().await;
    small.put(Bytes::from(vec![7; 20 << 10])).unwrap();
    assert_eq!(answers.node.pages.available_permits(), PAGE_BYTES - (20 << 10));
    // A watch that has read more than it tells keeps all of it, until that is told.
    let watch = answers.begin(Some(&peer(2))).unwrap();
    small.close();
    Room::of(&watch).take().await;
    Room::of(&watch).keep(true);
    watch.put(Bytes::from_static(b"the first")).unwrap();
    drop(given(&watch));
    assert_eq!(answers.node.pages.available_permits(), 0);
    Room::of(&watch).take().await;
    Room::of(&watch).keep(false);
    watch.put(Bytes::from_static(b"the last")).unwrap();
    drop(given(&watch));
    assert_eq!(answers.node.pages.available_permits(), PAGE_BYTES);
}
