//! Who may look and who may act, by every door.

use std::net::SocketAddr;

use super::*;

const SECRET: &str = "a token of 24 characters";

fn door(peer: &str, encrypted: bool, exposed: bool) -> Door {
    let reach = if exposed { Reach::Network } else { Reach::Machine };
    Door { peer: Peer::Address(peer.parse().expect("an address")), encrypted, reach, listener: None }
}

fn headers(token: Option<&str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some(token) = token {
        headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse().expect("text"));
    }
    headers
}

fn guard(hidden: bool) -> Guard {
    Guard::new(Some(Token::new(SECRET.as_bytes())), hidden)
}

async fn code(guard: &Guard, door: Door, token: Option<&str>, wish: Wish) -> Result<Actor, Code> {
    guard.admit(door, &headers(token), true, wish).await.map_err(|error| error.code)
}

#[tokio::test]
async fn addresses_look_and_the_socket_and_the_token_act() {
    let (here, there) = (door("127.0.0.1:40000", false, false), door("192.0.2.7:40000", true, true));
    let mapped = door("[::ffff:127.0.0.1]:40000", false, true);
    let plain = door("192.0.2.7:40000", false, true);
    let socket = Door { peer: Peer::Socket { uid: 7 }, encrypted: false, reach: Reach::Machine, listener: None };
    let no = Err(Code::Unauthorized);
    for (hidden, door, token, look, act) in [
        (false, here, None, Ok(Actor::Anybody), no),
        (true, here, None, no, no),
        (false, there, None, no, no),
        (false, plain, None, no, no),
        (true, socket, None, Ok(Actor::User { uid: 7 }), Ok(Actor::User { uid: 7 })),
        (true, here, Some(SECRET), Ok(Actor::Token), Ok(Actor::Token)),
        (false, there, Some(SECRET), Ok(Actor::Token), Ok(Actor::Token)),
        (false, mapped, Some(SECRET), Ok(Actor::Token), Ok(Actor::Token)),
        // Others could read it on its way.
        (false, plain, Some(SECRET), no, no),
        (false, here, Some("wrong"), no, no),
        (false, there, Some(""), no, no),
    ] {
        let guard = guard(hidden);
        assert_eq!(code(&guard, door, token, Wish::Look).await, look, "{door:?} {token:?}");
        assert_eq!(code(&guard, door, token, Wish::Act).await, act, "{door:?} {token:?}");
    }
    let none = Guard::new(None, false);
    assert_eq!(code(&none, here, Some(""), Wish::Act).await, no, "no token is not an empty one");
    let said = none.admit(here, &headers(Some("one")), true, Wish::Act).await.expect_err("none is right");
    assert!(said.message.contains("server.admin_token names none"), "{}", said.message);
}

#[tokio::test]
async fn a_foreign_name_is_for_who_has_the_token() {
    let here = door("127.0.0.1:40000", false, false);
    let guard = guard(false);
    let named = async |token| guard.admit(here, &headers(token), false, Wish::Look).await.map_err(|error| error.code);
    assert_eq!(named(None).await, Err(Code::Forbidden));
    assert_eq!(named(Some(SECRET)).await, Ok(Actor::Token));
}

#[tokio::test]
async fn two_tokens_are_no_token() {
    let mut both = headers(Some(SECRET));
    both.append(header::AUTHORIZATION, "Bearer other".parse().expect("text"));
    let guard = guard(false);
    let said = guard.admit(door("127.0.0.1:1", false, false), &both, true, Wish::Look).await;
    assert_eq!(said.map_err(|error| error.code), Err(Code::Unauthorized));
}

#[tokio::test(start_paused = true)]
async fn wrong_tokens_delay_wrong_ones_and_never_a_right_one() {
    let here = door("127.0.0.1:40000", false, false);
    let guard = Arc::new(guard(false));
    let begun = Instant::now();
    let wrong: Vec<_> = (0..WAITING)
        .map(|_| {
            let guard = Arc::clone(&guard);
            tokio::spawn(async move { code(&guard, here, Some("wrong"), Wish::Act).await })
        })
        .collect();
    while guard.waiting.available_permits() > 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(code(&guard, here, Some(SECRET), Wish::Act).await, Ok(Actor::Token));
    assert_eq!(begun.elapsed(), Duration::ZERO);
    for wrong in wrong {
        assert_eq!(wrong.await.expect("ends"), Err(Code::Unauthorized));
    }
    assert_eq!(begun.elapsed(), PAUSE * (WAITING as u32 - 1));
}

#[tokio::test(start_paused = true)]
async fn who_shows_wrong_tokens_and_hangs_up_delays_nobody_for_long() {
    let here = door("127.0.0.1:40000", false, false);
    let guard = guard(false);
    let wrong = headers(Some("wrong"));
    for _ in 0..10_000 {
        let shown = guard.admit(here, &wrong, true, Wish::Act);
        let _hung_up = tokio::time::timeout(Duration::ZERO, shown).await;
    }
    let begun = Instant::now();
    assert_eq!(code(&guard, here, Some("wrong"), Wish::Act).await, Err(Code::Unauthorized));
    assert!(begun.elapsed() <= PAUSE * WAITING as u32, "{:?}", begun.elapsed());
}

#[test]
fn what_stands_still_has_a_place_among_few_until_its_last_copy_is_gone() {
    let guard = guard(false);
    let places: Vec<_> = (0..ACTS).map(|_| guard.place(Wish::Act, "import").expect("a place")).collect();
    assert_eq!(guard.place(Wish::Act, "import").map(drop).map_err(|error| error.code), Err(Code::Busy));
    for (wish, act) in [(Wish::Look, "ready"), (Wish::Act, "pin"), (Wish::Act, "export"), (Wish::Act, "pull")] {
        assert!(guard.place(wish, act).is_ok(), "{act} has places of its own");
    }
    let copy = places[0].clone();
    drop(places);
    assert_eq!(guard.long[0].available_permits(), ACTS - 1);
    drop(copy);
    assert!(guard.place(Wish::Act, "import").is_ok());
}

#[test]
fn an_address_of_this_machine_is_known_in_every_form() {
    for (address, expected) in [
        ("127.0.0.1:1", true),
        ("127.9.9.9:1", true),
        ("[::1]:1", true),
        ("[::ffff:127.0.0.1]:1", true),
        ("0.0.0.0:1", false),
        ("[::]:1", false),
        ("10.0.0.1:1", false),
    ] {
        assert_eq!(is_loopback(address.parse::<SocketAddr>().expect("an address")), expected, "{address}");
    }
}
