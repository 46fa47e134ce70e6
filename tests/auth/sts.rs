//! Tokens that STS checks: moto's, behind a check of the signature by botocore.

use std::time::Duration;

use serde_json::Value;

use crate::house::count;
use crate::house::postgres::USER;
use crate::scripts::{Keys, Script};
use crate::vectors::Folder;
use crate::weir::Weir;

const WEIR: &str = "weir-test";
const ROLE: &str = "arn:aws:iam::123456789012:role/orders-fn";

struct House {
    sts: Script,
    weir: Weir,
}

impl House {
    fn new(more: &str) -> House {
        let sts = Script::start("tests/house/sts.py");
        let weir = Weir::taking(&format!(
            "[auth]\nhandshake_timeout = \"60s\"\nmax_failed_logins = 1000\n\
             [auth.iam]\nregions = [\"eu-west-1\"]\nrefusal_ttl = \"0s\"\nvalidation_timeout = \"60s\"\n\
             [auth.iam.sts]\nendpoint = \"http://127.0.0.1:{}\"\nweir_id = \"{WEIR}\"\ntimeout = \"2s\"\n{more}\n\
             [[auth.iam.map]]\nprincipal = \"{ROLE}\"\nusers = [\"{USER}\"]\n\
             [[auth.iam.map]]\nprincipal = \"arn:aws:iam::123456789012:user/ann\"\nusers = [\"{USER}\"]\n",
            sts.port(),
        ));
        for keys in sts.hello["keys"].as_object().unwrap().values() {
            let texts = keys.as_array().unwrap().iter().skip(1);
            weir.hides(texts.filter_map(Value::as_str).map(str::to_owned));
        }
        House { sts, weir }
    }

    fn keys(&self, of: &str) -> Keys {
        Keys::of(&self.sts.hello["keys"][of])
    }

    fn tokens(&self, of: &str, user: &str, weir_id: &str, count: usize) -> Vec<String> {
        let endpoint = format!("https://127.0.0.1:{}", self.sts.port());
        self.keys(of)
            .tokens(&["sts", &endpoint, user, "eu-west-1", weir_id], count)
    }

    fn token(&self, of: &str) -> String {
        self.tokens(of, USER, WEIR, 1).remove(0)
    }

    fn calls(&mut self) -> usize {
        self.sts.ask("calls").parse().unwrap()
    }
}

#[test]
fn who_signed_decides() {
    let mut house = House::new("");
    house.weir.lets_in(&house.token("role"));
    house.weir.lets_in(&house.token("user"));
    assert_eq!(house.weir.accepted("iam-sts"), 2);
    for (token, reason) in [
        (house.token("other_account"), "not_mapped"),
        (house.token("other_role"), "not_mapped"),
        // Made for another user, or for another Weir: the signature is over other headers.
        (
            house.tokens("role", "admin", WEIR, 1).remove(0),
            "refused_by_sts",
        ),
        (
            house.tokens("role", USER, "other-weir", 1).remove(0),
            "refused_by_sts",
        ),
    ] {
        house.weir.refuses(USER, &token, "iam-sts", reason);
    }
    let calls = house.calls();
    // Nobody is mapped to this user: STS need not be asked. A garbled token is none.
    house
        .weir
        .refuses(USER, "weir-sts-v1.aHR0cHM6Ly8", "iam", "not_a_token");
    let elsewhere = [
        "sts",
        "https://sts.eu-west-1.amazonaws.com",
        USER,
        "eu-west-1",
        WEIR,
    ];
    let elsewhere = house.keys("role").token(&elsewhere);
    house.weir.refuses(USER, &elsewhere, "iam", "host_mismatch");
    assert_eq!(house.calls(), calls, "nobody was asked about those");
}

#[test]
fn an_answer_that_is_none_is_nobodys_fault() {
    let mut house = House::new("");
    house.weir.lets_in(&house.token("role"));
    let mut tokens = house.tokens("role", USER, WEIR, 9);
    for mode in [
        "redirect", "type", "two", "large", "throttle", "fail", "hang",
    ] {
        house.sts.ask(mode);
        let token = tokens.pop().unwrap();
        let refusal = house.weir.refusal(&house.weir.login(USER, &token));
        assert_eq!(refusal.code, "57P03", "{mode}: {}", refusal.message);
        // What was not answered is not remembered.
        house.sts.ask("right");
        house.weir.lets_in(&token);
    }
    house.sts.ask("root");
    house
        .weir
        .refuses(USER, &tokens.pop().unwrap(), "iam-sts", "root");
    house.sts.ask("right");
    // STS gone: who is known comes in all the same.
    let (known, unknown) = (tokens.pop().unwrap(), house.token("user"));
    house.weir.lets_in(&known);
    let House { sts, weir } = house;
    drop(sts);
    weir.lets_in(&known);
    assert_eq!(weir.refusal(&weir.login(USER, &unknown)).code, "57P03");
}

#[test]
fn one_question_for_a_token_however_many_come_with_it() {
    let mut house = House::new("");
    let token = house.token("role");
    let logins = count(200, 1_000);
    crowd(&house.weir, &vec![token; logins]);
    assert_eq!(house.calls(), 1);
}

#[test]
fn many_tokens_at_once_stay_within_the_limits() {
    let limit = count(40, 100);
    let mut house = House::new(&format!("max_calls = 16\ncalls_per_second = {limit}"));
    let tokens = house.tokens("role", USER, WEIR, count(300, 2_000));
    crowd(&house.weir, &tokens);
    assert_eq!(house.calls(), tokens.len());
    let rate: usize = house.sts.ask("rate").parse().unwrap();
    assert!(rate <= limit + 5, "{rate} calls within a second");
}

/// All come within five seconds, and all come in.
pub fn crowd(weir: &Weir, tokens: &[String]) {
    weir.hides(tokens.first().cloned());
    let logins: Vec<_> = tokens.iter().map(|token| weir.login(USER, token)).collect();
    let within = Duration::from_secs(5);
    let count = u32::try_from(logins.len()).unwrap();
    std::thread::scope(|scope| {
        for (login, turn) in logins.iter().zip(0..) {
            scope.spawn(move || {
                std::thread::sleep(within * turn / count);
                drop(login.connect());
            });
        }
    });
}

#[test]
fn what_is_changed_in_the_configuration_counts_for_known_tokens_too() {
    let folder = Folder::new("sts-reload");
    let house = House::new("");
    let token = house.token("role");
    house.weir.lets_in(&token);
    let path = house.weir.proxy.file.clone().unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("orders-fn", "other-fn")).unwrap();
    let page = crate::house::http::request(house.weir.proxy.http, "POST", "/reload").unwrap();
    assert_eq!(page.status, 200, "{}", page.body);
    house.weir.refuses(USER, &token, "iam-sts", "not_mapped");
    drop(folder);
}
