//! Both roles against the example of RFC 7677, against each other, and against nonsense.
//!
//! Knows no PostgreSQL; `tests/server` has one.

use std::num::NonZeroU32;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;

const FEW: NonZeroU32 = NonZeroU32::new(3).unwrap();

// RFC 7677, section 3. PostgreSQL's peers leave the user name empty, so `Hello` can't say these words;
// the parts below it can.
const CLIENT_FIRST: &[u8] = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
const SERVER_FIRST: &[u8] =
    b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
const CLIENT_FINAL: &[u8] = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
const SERVER_FINAL: &[u8] = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

fn rfc_verifier() -> Verifier {
    let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
    Verifier::derive(b"pencil", &salt, NonZeroU32::new(4096).unwrap())
}

#[test]
fn the_example_of_rfc_7677() {
    let first = ClientFirst::parse(CLIENT_FIRST, Mechanism::Scram, None).unwrap();
    let challenged = first.challenge(rfc_verifier(), SERVER_NONCE);
    assert_eq!(challenged.message(), SERVER_FIRST);
    let verified = challenged.verify(&[rfc_verifier()], CLIENT_FINAL).unwrap();
    assert_eq!(verified.server_final, SERVER_FINAL);
    let learnt = SaltedKeys::learnt(&verified.client_key, &rfc_verifier());
    assert!(learnt.is_some());
    assert_eq!(
        SaltedKeys::learnt(
            &verified.client_key,
            &Verifier::derive(b"pencil", b"x", FEW)
        ),
        None
    );
}

#[test]
fn a_verifier_of_postgresql() {
    // CREATE ROLE .. PASSWORD 'pencil' gives this shape; the keys are RFC 7677's.
    let text = rfc_verifier().to_text();
    assert_eq!(
        text,
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    );
    let verifier = Verifier::parse(&text).unwrap();
    assert_eq!(verifier, rfc_verifier());
    assert!(verifier.fits(b"pencil"));
    assert!(!verifier.fits(b"Pencil"));
    assert!(!format!("{verifier:?}").contains("WG5d"));
    for wrong in [
        "",
        "pencil",
        "md5d41d8cd98f00b204e9800998ecf8427e",
        "SCRAM-SHA-256$4096$WG5d:wfPL",
        &text.replace("4096", "0"),
        &text.replace("4096", "4294967296"),
        &text.replace("4096", "-1"),
        &text.replace("4096", "+1"),
        &text.replace("W22Z", "W2 Z"),
        &text.replace("W22ZaJ0SNY7soEsUEjb6gQ==", ""),
        &text.replace("qY=", "qY"),
        &text.replace("wfPL", ""),
    ] {
        assert!(Verifier::parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn passwords_are_prepared_where_they_can_be() {
    let key = |password: &[u8]| Verifier::derive(password, b"salt", FEW);
    // RFC 4013: a soft hyphen maps to nothing, a non-ASCII space to a space, compatibility forms compose.
    assert_eq!(key("I\u{ad}X".as_bytes()), key(b"IX"));
    assert_eq!(key("a\u{a0}b".as_bytes()), key(b"a b"));
    assert_eq!(key("\u{2168}".as_bytes()), key(b"IX"));
    // Prohibited, not UTF-8, or nothing left: the bytes themselves.
    assert_ne!(key(b"\x07"), key(b""));
    assert_ne!(key(b"\xff\xfe"), key(b""));
    assert_ne!(key("\u{ad}".as_bytes()), key(b""));
}

#[test]
fn first_messages_that_are_refused() {
    use Mechanism::{Scram, ScramPlus};
    use ScramError::*;
    let hash: Option<&[u8]> = Some(b"hash");
    type Case<'a> = (&'a [u8], Mechanism, Option<&'a [u8]>, Option<ScramError>);
    let cases: &[Case<'_>] = &[
        (b"n,,n=,r=abc", Scram, None, None),
        (b"n,,n=,r=abc,x=ignored", Scram, hash, None),
        (b"y,,n=,r=abc", Scram, None, None),
        (b"y,,n=,r=abc", Scram, hash, Some(Downgraded)),
        (b"p=tls-server-end-point,,n=,r=abc", ScramPlus, hash, None),
        (
            b"p=tls-server-end-point,,n=,r=abc",
            ScramPlus,
            None,
            Some(BindingContradictsMechanism),
        ),
        (
            b"p=tls-server-end-point,,n=,r=abc",
            Scram,
            hash,
            Some(BindingContradictsMechanism),
        ),
        (
            b"p=tls-unique,,n=,r=abc",
            ScramPlus,
            hash,
            Some(UnsupportedBinding),
        ),
        (
            b"n,,n=,r=abc",
            ScramPlus,
            hash,
            Some(BindingContradictsMechanism),
        ),
        (
            b"n,a=bob,n=,r=abc",
            Scram,
            None,
            Some(AuthorizationIdentity),
        ),
        (
            b"n,,m=new,n=,r=abc",
            Scram,
            None,
            Some(UnsupportedExtension),
        ),
    ];
    for (message, mechanism, end_point, refused) in cases {
        let read = ClientFirst::parse(message, *mechanism, *end_point);
        assert_eq!(read.err(), *refused, "{}", message.escape_ascii());
    }
    let malformed: &[&[u8]] = &[
        b"",
        b"n",
        b"n,",
        b"n,,",
        b"x,,n=,r=abc",
        b"n,x,n=,r=abc",
        b"n,,r=abc",
        b"n,,n=,r=",
        b"n,,n=,r=a c",
        b"n,,n=,r=a\0c",
        b"n,,n=,r=abc,",
        b"n,,n=,r=abc,nonsense",
        b"n,,n=,r=abc,1=x",
    ];
    for message in malformed {
        let read = ClientFirst::parse(message, Scram, None);
        let is_malformed = matches!(read, Err(Malformed { .. }));
        assert!(is_malformed, "{}: {read:?}", message.escape_ascii());
    }
    let long = [b"n,,n=,r=".to_vec(), vec![b'x'; MAX_MESSAGE_BYTES]].concat();
    assert!(matches!(
        ClientFirst::parse(&long, Scram, None),
        Err(TooLong { .. })
    ));
}

#[test]
fn last_messages_that_are_refused() {
    use ScramError::*;
    let text = std::str::from_utf8(CLIENT_FINAL).unwrap();
    let verify = |message: &str| {
        let first = ClientFirst::parse(CLIENT_FIRST, Mechanism::Scram, None).unwrap();
        let challenged = first.challenge(rfc_verifier(), SERVER_NONCE);
        let verified = challenged.verify([challenged.asked_of()], message.as_bytes());
        verified.map(|_| ())
    };
    assert_eq!(verify(text), Ok(()));
    assert_eq!(verify(&text.replace("p=dHz", "p=eHz")), Err(WrongProof));
    assert_eq!(verify(&text.replace(",p=", ",x=1,p=")), Err(WrongProof));
    assert_eq!(verify(&text.replace("r=rO", "r=rP")), Err(NonceMismatch));
    assert_eq!(
        verify(&text.replace("c=biws", "m=1")),
        Err(UnsupportedExtension)
    );
    let bound = encode(b"p=tls-server-end-point,,hash");
    assert_eq!(
        verify(&text.replace("c=biws", &format!("c={bound}"))),
        Err(BindingMismatch)
    );
    for malformed in [
        "",
        "c=biws",
        &text.replace("c=biws", "c=eSws"),
        &text.replace("c=biws", "c=!"),
        &text.replace("VQ=", "VQ"),
        &format!("{text},x=1"),
        text.split_once(",p=").unwrap().0,
    ] {
        let verified = verify(malformed);
        assert!(
            matches!(verified, Err(Malformed { .. })),
            "{malformed}: {verified:?}"
        );
    }
}

#[test]
fn challenges_that_are_refused() {
    use ScramError::*;
    let read = |message: &str| {
        let (hello, first) = Hello::new(Binding::Unsupported, "abc".into());
        assert_eq!(first, b"n,,n=,r=abc");
        hello.challenged(message.as_bytes()).map(|_| ())
    };
    assert_eq!(read("r=abcdef,s=c2FsdA==,i=4096"), Ok(()));
    assert_eq!(read("r=abcdef,s=c2FsdA==,i=4096,x=later"), Ok(()));
    assert_eq!(read("r=abc,s=c2FsdA==,i=4096"), Err(NonceMismatch));
    assert_eq!(read("r=xyzdef,s=c2FsdA==,i=4096"), Err(NonceMismatch));
    assert_eq!(
        read("m=x,r=abcdef,s=c2FsdA==,i=1"),
        Err(UnsupportedExtension)
    );
    for count in [0, 1_000_001, 99_999_999_999_u64] {
        let refused = Err(Iterations { iterations: count });
        assert_eq!(read(&format!("r=abcdef,s=c2FsdA==,i={count}")), refused);
    }
    for malformed in [
        "",
        "r=abcdef",
        "r=abcdef,s=,i=1",
        "r=abcdef,s=*,i=1",
        "r=abcdef,s=c2FsdA==,i=",
        "r=abcdef,s=c2FsdA==,i=-1",
        "r=abcdef,i=1,s=c2FsdA==",
    ] {
        let answer = read(malformed);
        assert!(
            matches!(answer, Err(Malformed { .. })),
            "{malformed}: {answer:?}"
        );
    }
}

#[test]
fn a_server_that_does_not_know_the_verifier_is_found_out() {
    let keys = SaltedKeys::derive(b"secret", b"salt", FEW);
    let finish = |server_final: &[u8]| {
        let (hello, _) = Hello::new(Binding::NotOffered, "abc".into());
        let challenge = hello.challenged(b"r=abcdef,s=c2FsdA==,i=3").unwrap();
        challenge.prove(&keys).unwrap().0.verify(server_final)
    };
    assert_eq!(finish(SERVER_FINAL), Err(ScramError::WrongSignature));
    assert_eq!(finish(b"e=other-error"), Err(ScramError::RefusedByServer));
    assert!(matches!(
        finish(b"v=abc"),
        Err(ScramError::Malformed { .. })
    ));
    assert!(matches!(finish(b""), Err(ScramError::Malformed { .. })));
    let (hello, _) = Hello::new(Binding::NotOffered, "abc".into());
    let challenge = hello.challenged(b"r=abcdef,s=b3RoZXI=,i=3").unwrap();
    assert!(!challenge.fits(&keys));
    assert_eq!(
        challenge.prove(&keys).err(),
        Some(ScramError::OtherVerifier)
    );
}

#[test]
fn keys_are_kept_for_the_next_login() {
    let kept = ScramKeys::default();
    assert_eq!(kept.find(b"salt", FEW), None);
    let keys = Arc::new(SaltedKeys::derive(b"secret", b"salt", FEW));
    kept.keep(Arc::clone(&keys));
    assert_eq!(kept.find(b"salt", FEW), Some(keys));
    assert_eq!(kept.find(b"other", FEW), None);
    assert_eq!(kept.find(b"salt", NonZeroU32::MIN), None);
}

#[test]
fn an_unknown_user_is_asked_like_a_known_one() {
    let doom = Doom::new(&[7; KEY_BYTES]);
    let doomed = doom.verifier(b"bob", FEW);
    assert_eq!(doomed, Doom::new(&[7; KEY_BYTES]).verifier(b"bob", FEW));
    assert_ne!(doomed.salt(), doom.verifier(b"eve", FEW).salt());
    let other = Doom::new(&[8; KEY_BYTES]).verifier(b"bob", FEW);
    assert_ne!(doomed.salt(), other.salt());
    assert_eq!(doomed.salt().len(), SALT_BYTES);
    assert!(!doomed.fits(b""));
}

/// One whole exchange; what the server learnt of the client.
fn exchange(
    keys: &SaltedKeys,
    verifier: &Verifier,
    binding: Binding<'_>,
    end_point: Option<&[u8]>,
) -> Result<ClientKey, ScramError> {
    let (hello, first) = Hello::new(binding, nonce([1; NONCE_BYTES]));
    let first = ClientFirst::parse(&first, binding.mechanism(), end_point)?;
    let challenged = first.challenge(verifier.clone(), &nonce([2; NONCE_BYTES]));
    let (awaiting, proof) = hello.challenged(challenged.message())?.prove(keys)?;
    let verified = challenged.verify([challenged.asked_of()], &proof)?;
    awaiting.verify(&verified.server_final)?;
    Ok(verified.client_key)
}

proptest! {
    #[test]
    fn both_roles_understand_each_other(
        password in proptest::collection::vec(any::<u8>(), 0..40),
        other in proptest::collection::vec(any::<u8>(), 0..40),
        salt in proptest::collection::vec(any::<u8>(), 1..40),
        hash in proptest::collection::vec(any::<u8>(), 20..65),
    ) {
        let keys = SaltedKeys::derive(&password, &salt, FEW);
        let verifier = Verifier::parse(&keys.verifier().to_text()).unwrap();
        prop_assert_eq!(&verifier, &keys.verifier());
        for binding in [Binding::Unsupported, Binding::NotOffered] {
            let learnt = exchange(&keys, &verifier, binding, None).unwrap();
            prop_assert_eq!(SaltedKeys::learnt(&learnt, &verifier), Some(keys.clone()));
        }
        let bound = Binding::EndPoint(&hash);
        prop_assert!(exchange(&keys, &verifier, bound, Some(&hash)).is_ok());
        prop_assert_eq!(
            exchange(&keys, &verifier, bound, Some(b"another certificate")),
            Err(ScramError::BindingMismatch)
        );
        let wrong = SaltedKeys::derive(&other, &salt, FEW);
        if wrong != keys {
            prop_assert_eq!(
                exchange(&wrong, &verifier, bound, Some(&hash)),
                Err(ScramError::WrongProof)
            );
        }
    }

    #[test]
    fn no_input_is_too_strange(message in proptest::collection::vec(any::<u8>(), 0..80)) {
        let _ = ClientFirst::parse(&message, Mechanism::Scram, None);
        let (hello, _) = Hello::new(Binding::Unsupported, "abc".into());
        let _ = hello.challenged(&message);
        let _ = Verifier::parse(&String::from_utf8_lossy(&message));
        let first = ClientFirst::parse(CLIENT_FIRST, Mechanism::Scram, None).unwrap();
        let challenged = first.challenge(rfc_keys_cheap(), SERVER_NONCE);
        prop_assert!(challenged.verify([challenged.asked_of()], &message).is_err());
    }
}

fn rfc_keys_cheap() -> Verifier {
    Doom::new(&[0; KEY_BYTES]).verifier(b"", FEW)
}

/// A rotation: clients still come with the old password, and with the new one already.
#[test]
fn one_challenge_can_be_met_by_several_passwords_of_one_salt() {
    let of = |password: &[u8]| Verifier::derive(password, b"one salt", FEW);
    let come = |password: &[u8]| {
        let (hello, first) = Hello::new(Binding::Unsupported, nonce([1; NONCE_BYTES]));
        let first = ClientFirst::parse(&first, Mechanism::Scram, None).unwrap();
        let challenged = first.challenge(of(b"new"), "server");
        let other = Verifier::derive(b"other", b"other salt", FEW);
        let challenge = hello.challenged(challenged.message()).unwrap();
        let keys = SaltedKeys::derive(password, challenge.salt(), challenge.iterations());
        let (awaiting, proof) = challenge.prove(&keys).unwrap();
        let verified = challenged.verify(&[of(b"new"), of(b"old"), other], &proof)?;
        awaiting.verify(&verified.server_final).unwrap();
        Ok(verified.client_key)
    };
    for password in [&b"new"[..], b"old"] {
        let shown = come(password).unwrap();
        assert!(SaltedKeys::learnt(&shown, &of(password)).is_some());
    }
    assert_eq!(come(b"other"), Err(ScramError::WrongProof));
    assert_eq!(come(b"older"), Err(ScramError::WrongProof));
}
