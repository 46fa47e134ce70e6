//! JSON web tokens, signed by an issuer of the tests' own.

use serde_json::{Value, json};

use crate::house::http;
use crate::house::postgres::USER;
use crate::scripts::Script;
use crate::vectors::Folder;
use crate::weir::Weir;

const ROLE: &str = "arn:aws:iam::123456789012:role/orders-fn";
const FUNCTION: &str = "arn:aws:lambda:eu-west-1:123456789012:function:orders";
const AUDIENCE: &str = "weir://test/orders";
const AWS: &str = "https://sts.amazonaws.com/";

struct House {
    issuer: Script,
    weir: Weir,
}

fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(since.unwrap().as_secs()).unwrap()
}

/// What AWS puts into one.
fn claims() -> Value {
    json!({
        "iss": "https://issuer.example", "sub": ROLE, "aud": AUDIENCE,
        "iat": now(), "exp": now() + 300, "jti": "1",
        AWS: { "aws_account": "123456789012", "lambda_source_function_arn": FUNCTION },
    })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

impl House {
    fn new() -> House {
        let issuer = Script::start("tests/house/issuer.py");
        let weir = Weir::taking(&format!(
            "[auth]\nmax_failed_logins = 1000\n[auth.iam.jwt]\nissuers = [\"https://issuer.example\"]\n\
             audience = \"{AUDIENCE}\"\njwks_url = \"http://127.0.0.1:{}/.well-known/jwks.json\"\n\
             max_lifetime = \"15m\"\n\
             [[auth.iam.map]]\nprincipal = \"{ROLE}\"\nfunctions = [\"{FUNCTION}\"]\nusers = [\"{USER}\"]\n",
            issuer.port(),
        ));
        House { issuer, weir }
    }

    fn sign(&mut self, claims: &Value) -> String {
        self.ask(json!({ "sign": claims }))
    }

    fn ask(&mut self, what: Value) -> String {
        self.issuer.ask(&what.to_string())
    }

    fn fetches(&mut self) -> String {
        self.ask(json!({ "do": "fetches" }))
    }
}

#[test]
fn both_algorithms_come_in_and_keys_are_fetched_once() {
    let mut house = House::new();
    let first = house.sign(&claims());
    house.weir.lets_in(&first);
    house.weir.lets_in(&first);
    let rsa = house.ask(json!({ "sign": claims(), "key": "rsa" }));
    house.weir.lets_in(&rsa);
    let several = with("aud", json!(["other", AUDIENCE]));
    let several = house.sign(&several);
    house.weir.lets_in(&several);
    assert_eq!(house.fetches(), "1");
    assert_eq!(house.weir.accepted("iam-jwt"), 4);
}

#[test]
fn what_must_be_refused_is() {
    let mut house = House::new();
    let good = house.sign(&claims());
    house.weir.lets_in(&good);
    let mut cases = Vec::new();
    for (claims, reason) in [
        (with("iss", json!("https://other.example")), "wrong_issuer"),
        (with("aud", json!("weir://other")), "wrong_audience"),
        (with("aud", json!([])), "wrong_audience"),
        (with("exp", json!(now() - 100)), "bad_lifetime"),
        (with("exp", json!(now() + 3600)), "bad_lifetime"),
        (with("iat", json!(now() + 120)), "future"),
        (with("nbf", json!(now() + 120)), "future"),
        (
            with("sub", json!("arn:aws:iam::999999999999:role/orders-fn")),
            "not_mapped",
        ),
        (
            with("sub", json!("arn:aws:iam::123456789012:root")),
            "not_mapped",
        ),
        (
            with(
                AWS,
                json!({ "lambda_source_function_arn": format!("{FUNCTION}2") }),
            ),
            "not_mapped",
        ),
        (with(AWS, json!(null)), "not_mapped"),
        (with("exp", json!("soon")), "bad_jwt"),
        (with("sub", json!(null)), "bad_jwt"),
    ] {
        cases.push((house.sign(&claims), "iam", reason));
    }
    let mut old = with("exp", json!(now() - 70));
    old["iat"] = json!(now() - 300);
    cases.push((house.sign(&old), "iam", "expired"));
    let sign = json!({ "sign": claims() });
    let ask = |more: Value| {
        let mut ask = sign.clone();
        ask.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        ask
    };
    for (asked, method, reason) in [
        (ask(json!({ "alg": "none" })), "iam", "wrong_algorithm"),
        (
            ask(json!({ "alg": "HS256", "key": "rsa" })),
            "iam",
            "wrong_algorithm",
        ),
        (
            ask(json!({ "header": { "alg": "RS512" } })),
            "iam",
            "wrong_algorithm",
        ),
        (
            ask(json!({ "header": { "crit": ["x"] } })),
            "iam",
            "bad_jwt",
        ),
        (
            ask(json!({ "header": { "kid": null } })),
            "iam",
            "unknown_key",
        ),
        (ask(json!({ "key": "small" })), "iam-jwt", "unknown_key"),
        (ask(json!({ "key": "p256" })), "iam-jwt", "unknown_key"),
        (
            ask(json!({ "header": { "kid": "nobody's" } })),
            "iam-jwt",
            "unknown_key",
        ),
        // One of the issuer's keys, but not the one that signed; or not of the kind that is named.
        (
            ask(json!({ "header": { "kid": "rsa-1" } })),
            "iam-jwt",
            "wrong_algorithm",
        ),
        (
            ask(json!({ "key": "rsa", "alg": "ES384" })),
            "iam-jwt",
            "wrong_algorithm",
        ),
    ] {
        cases.push((house.ask(asked), method, reason));
    }
    // Keys of the client's own are not looked at.
    let jku = format!("http://127.0.0.1:{}/evil", house.issuer.port());
    let jku = ask(json!({ "header": { "jku": jku, "x5u": jku, "kid": "mine" } }));
    cases.push((house.ask(jku), "iam-jwt", "unknown_key"));
    let (head, signature) = good.rsplit_once('.').unwrap();
    let other = house.sign(&with("jti", json!("2")));
    let (_, stolen) = other.rsplit_once('.').unwrap();
    cases.push((format!("{head}.{stolen}"), "iam-jwt", "bad_signature"));
    cases.push((
        format!("{head}.{}", &signature[4..]),
        "iam-jwt",
        "bad_signature",
    ));
    cases.push((format!("{head}.{signature}="), "iam", "bad_jwt"));
    for (token, method, reason) in cases {
        house.weir.refuses(USER, &token, method, reason);
    }
}

#[test]
fn keys_change_and_issuers_fail() {
    let mut house = House::new();
    house.ask(json!({ "do": "fail" }));
    let first = house.sign(&claims());
    let refusal = house.weir.refusal(&house.weir.login(USER, &first));
    assert_eq!(refusal.code, "57P03", "{}", refusal.message);
    // It is not asked again at once.
    assert_eq!(
        house.weir.refusal(&house.weir.login(USER, &first)).code,
        "57P03"
    );
    assert_eq!(house.fetches(), "1");
    house.ask(json!({ "do": "serve" }));
    let page = http::request(house.weir.proxy.http, "POST", "/reload").unwrap();
    assert_eq!(page.status, 200);
}

#[test]
fn keys_may_be_in_a_file() {
    let folder = Folder::new("jwks");
    let mut issuer = Script::start("tests/house/issuer.py");
    let address = format!("127.0.0.1:{}", issuer.port()).parse().unwrap();
    let keys = http::get(address, "/").unwrap();
    let file = folder.file("jwks.json", &keys.body);
    let weir = Weir::taking(&format!(
        "[auth.iam.jwt]\nissuers = [\"https://issuer.example\"]\naudience = \"{AUDIENCE}\"\njwks_file = {file:?}\n\
         [[auth.iam.map]]\nprincipal = \"{ROLE}\"\nusers = [\"{USER}\"]\n",
    ));
    weir.lets_in(&issuer.ask(&json!({ "sign": claims() }).to_string()));
}
