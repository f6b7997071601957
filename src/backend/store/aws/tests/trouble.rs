use serde_json::json;

use super::*;

/// Reads `many/0`, about which AWS says this.
async fn told(answer: Answer) -> BackendError {
    let (bench, aws) = (Bench::new(), Aws::with_secrets(1));
    aws.says(move |_| Some(answer.clone()));
    read(&bench.backend(&aws), "secretsmanager/many/0").await.unwrap_err()
}

#[tokio::test]
async fn each_code_has_its_fault_and_its_words() {
    let denied = "User: arn:aws:sts::111122223333:assumed-role/web/keyferry is not authorized to perform: secretsmanager:GetSecretValue on \
                  resource: many/0 because no identity-based policy allows the secretsmanager:GetSecretValue action";
    let mut said = Vec::new();
    for (code, words, fault) in [
        ("ResourceNotFoundException", "Secrets Manager can't find the specified secret.", Fault::NotFound),
        (
            "ResourceNotFoundException",
            "Secrets Manager can't find the specified secret value for staging label: AWSCURRENT",
            Fault::NotFound,
        ),
        ("InvalidRequestException", "You can't perform this operation on the secret because it was marked for deletion.", Fault::NotFound),
        ("InvalidRequestException", "The secret is scheduled for deletion.", Fault::NotFound),
        ("InvalidRequestException", "You provided a VersionStage that is not associated to the provided VersionId.", Fault::Invalid),
        ("AccessDeniedException", denied, Fault::Denied),
        ("AccessDeniedException", "Access to KMS is not allowed", Fault::Denied),
        ("DecryptionFailure", "The key is disabled", Fault::Corrupt),
        ("ExpiredTokenException", "The security token included in the request is expired", Fault::Unauthenticated),
        ("UnrecognizedClientException", "The security token included in the request is invalid.", Fault::Unauthenticated),
        ("InvalidSignatureException", "The request signature we calculated does not match.", Fault::Unauthenticated),
        ("ValidationException", "1 validation error detected", Fault::Invalid),
        ("SomethingNewException", "", Fault::Invalid),
    ] {
        let error = told(fake::error(code, words)).await;
        assert_eq!(error.fault, fault, "{code}");
        said.push(error.to_string());
    }
    insta::assert_snapshot!(said.join("\n"), @"
    amazon/secretsmanager/many/0: Secrets Manager says ResourceNotFoundException: Secrets Manager can't find the specified secret. (check the name, its version and the backend's region; AWS's request id is 0e7f-request)
    amazon/secretsmanager/many/0: Secrets Manager says ResourceNotFoundException: Secrets Manager can't find the specified secret value for staging label: AWSCURRENT (it may have no value yet: aws secretsmanager put-secret-value; AWS's request id is 0e7f-request)
    amazon/secretsmanager/many/0: Secrets Manager says InvalidRequestException: You can't perform this operation on the secret because it was marked for deletion. (it can be restored until its deletion: aws secretsmanager restore-secret; AWS's request id is 0e7f-request)
    amazon/secretsmanager/many/0: Secrets Manager says InvalidRequestException: The secret is scheduled for deletion. (it can be restored until its deletion: aws secretsmanager restore-secret; AWS's request id is 0e7f-request)
    amazon/secretsmanager/many/0: Secrets Manager says InvalidRequestException: You provided a VersionStage that is not associated to the provided VersionId. (check the name and the version in the class; AWS's request id is 0e7f-request)
    amazon/secretsmanager/many/0: Secrets Manager says AccessDeniedException: User: arn:aws:sts::111122223333:assumed-role/web/keyferry is not authorized to perform: secretsmanager:GetSecretValue on resource: many/0 because no identity-based policy allows the secretsmanager:GetSecretValue action (allow secretsmanager:GetSecretValue on it in the role's policy; AWS says the same about a secret that does not exist; AWS's request id is 0e7f-request)
    amazon/secretsmanager/many/0: Secrets Manager says AccessDeniedException: Access to KMS is not allowed (the secret's KMS key must allow kms:Decrypt to the role, in the key's policy and in the role's; AWS's request id is 0e7f-request)
    amazon/secretsmanager/many/0: Secrets Manager says DecryptionFailure: The key is disabled (check the KMS key of the secret: is it disabled, or will it be deleted?; AWS's request id is 0e7f-request)
    amazon/secretsmanager/many/0: Secrets Manager says ExpiredTokenException: The security token included in the request is expired (check the role or the access key of the backend's `auth`; AWS's request id is 0e7f-request)
    amazon/secretsmanager/many/0: Secrets Manager says UnrecognizedClientException: The security token included in the request is invalid. (check the role or the access key of the backend's `auth`; AWS's request id is 0e7f-request)
    amazon/secretsmanager/many/0: Secrets Manager says InvalidSignatureException: The request signature we calculated does not match. (is the access key right, and the clock of this node?; AWS's request id is 0e7f-request)
    amazon/secretsmanager/many/0: Secrets Manager says ValidationException: 1 validation error detected (check the name and the version in the class; AWS's request id is 0e7f-request)
    amazon/secretsmanager/many/0: Secrets Manager says SomethingNewException (check the name and the version in the class; AWS's request id is 0e7f-request)
    ");
}

/// Parameter Store has other words for trouble with KMS.
#[tokio::test]
async fn what_parameter_store_says_has_its_fault_and_its_words() {
    let key = "The ciphertext refers to a customer master key that does not exist, does not exist in this region, or you are not allowed to \
               access. (Service: AWSKMS; Status Code: 400)";
    let mut said = Vec::new();
    for (code, words, fault) in [
        ("AccessDeniedException", key, Fault::Denied),
        ("InvalidKeyId", "arn:aws:kms:eu-west-1:111122223333:key/1 is disabled.", Fault::Corrupt),
        ("ParameterVersionNotFound", "", Fault::NotFound),
        ("ValidationException", "Parameter name: can't be prefixed with \"ssm\" (case-insensitive).", Fault::Invalid),
        ("InternalServerError", "", Fault::Unavailable),
    ] {
        let (bench, aws) = (Bench::new(), Aws::start());
        aws.says(move |_| Some(fake::error(code, words)));
        let error = read(&bench.backend(&aws), "ssm/shop/a").await.unwrap_err();
        assert_eq!(error.fault, fault, "{code}");
        said.push(error.to_string());
    }
    insta::assert_snapshot!(said.join("\n"), @r#"
    amazon/ssm/shop/a: Parameter Store says AccessDeniedException: The ciphertext refers to a customer master key that does not exist, does not exist in this region, or you are not allowed to access. (Service: AWSKMS; Status Code: 400) (the secret's KMS key must allow kms:Decrypt to the role, in the key's policy and in the role's; AWS's request id is 0e7f-request)
    amazon/ssm/shop/a: Parameter Store says InvalidKeyId: arn:aws:kms:eu-west-1:111122223333:key/1 is disabled. (check the KMS key of the secret: is it disabled, or will it be deleted?; AWS's request id is 0e7f-request)
    amazon/ssm/shop/a: Parameter Store says ParameterVersionNotFound (check the name, its version and the backend's region; AWS's request id is 0e7f-request)
    amazon/ssm/shop/a: Parameter Store says ValidationException: Parameter name: can't be prefixed with "ssm" (case-insensitive). (check the name and the version in the class; AWS's request id is 0e7f-request)
    amazon/ssm/shop/a: Parameter Store says InternalServerError (kubelet tries again by itself; AWS's request id is 0e7f-request)
    "#);
}

#[tokio::test]
async fn answers_that_are_not_awss_go_by_their_status() {
    let mut said = Vec::new();
    for (answer, fault) in [
        (
            Answer::new(
                403,
                "<ErrorResponse><Error><Code>SignatureDoesNotMatch</Code><Message>a &amp; b</Message></Error></ErrorResponse>",
            ),
            Fault::Unauthenticated,
        ),
        (Answer::new(400, "{}").header("x-amzn-errortype", "AccessDeniedException:http://internal.amazon.com/"), Fault::Denied),
        (Answer::new(403, "<html>blocked</html>"), Fault::Unhelpful),
        (Answer::new(401, ""), Fault::Unhelpful),
        (Answer::new(404, "nothing"), Fault::Unhelpful),
        (Answer::new(400, ""), Fault::Unhelpful),
        (Answer::new(200, "<html>welcome</html>"), Fault::Corrupt),
        (Answer::new(200, "{}"), Fault::Corrupt),
        (Answer::new(200, r#"{"Name":"many/0","VersionId":"v"}"#), Fault::NotFound),
        (Answer::new(200, r#"{"Name":"many/0","VersionId":"v","SecretBinary":"!"}"#), Fault::Corrupt),
        (Answer::new(200, r#"{"Name":"many/0","VersionId":"v","SecretString":"\ud800"}"#), Fault::Corrupt),
    ] {
        let error = told(answer).await;
        assert_eq!(error.fault, fault, "{error}");
        said.push(error.to_string());
    }
    insta::assert_snapshot!(said.join("\n"), @"
    amazon/secretsmanager/many/0: Secrets Manager says SignatureDoesNotMatch: a & b (is the access key right, and the clock of this node?; AWS's request id is 0e7f-request)
    amazon/secretsmanager/many/0: Secrets Manager says AccessDeniedException (allow secretsmanager:GetSecretValue on it in the role's policy; AWS says the same about a secret that does not exist; AWS's request id is 0e7f-request)
    amazon/secretsmanager/many/0: the server that answers for Secrets Manager is not AWS: it says 403 Forbidden (check `endpoints` of the backend, and the proxies on the way; AWS's request id is 0e7f-request)
    amazon/secretsmanager/many/0: the server that answers for Secrets Manager is not AWS: it says 401 Unauthorized (check `endpoints` of the backend, and the proxies on the way; AWS's request id is 0e7f-request)
    amazon/secretsmanager/many/0: the server that answers for Secrets Manager is not AWS: it says 404 Not Found (check `endpoints` of the backend, and the proxies on the way; AWS's request id is 0e7f-request)
    amazon/secretsmanager/many/0: the server that answers for Secrets Manager is not AWS: it says 400 Bad Request (check `endpoints` of the backend, and the proxies on the way; AWS's request id is 0e7f-request)
    amazon/secretsmanager/many/0: the answer is not from Secrets Manager (is the server AWS? check `endpoints` of the backend, and the proxies on the way; AWS's request id is 0e7f-request)
    amazon/secretsmanager/many/0: the answer is not from Secrets Manager (is the server AWS? check `endpoints` of the backend, and the proxies on the way; AWS's request id is 0e7f-request)
    amazon/secretsmanager/many/0: the secret has no value yet (put one into it: aws secretsmanager put-secret-value; AWS's request id is 0e7f-request)
    amazon/secretsmanager/many/0: the answer is not from Secrets Manager (is the server AWS? check `endpoints` of the backend, and the proxies on the way; AWS's request id is 0e7f-request)
    amazon/secretsmanager/many/0: the secret has half a character in it (half of a surrogate pair: write the secret again; AWS's request id is 0e7f-request)
    ");
}

/// The words of an error never hide its code: without the code, a denial would look like an outage.
#[tokio::test]
async fn a_code_counts_whatever_the_words_are() {
    for (body, fault) in [
        (r#"{"__type":"AccessDeniedException","message":"a","Message":"a"}"#, Fault::Denied),
        (r#"{"__type":"AccessDeniedException","message":null,"Message":"a"}"#, Fault::Denied),
        (r#"{"__type":"ResourceNotFoundException","message":{"a":1}}"#, Fault::NotFound),
        (r#"{"__type":"DecryptionFailure","Message":5}"#, Fault::Corrupt),
    ] {
        let error = told(Answer::new(400, body)).await;
        assert_eq!(error.fault, fault, "{error}");
    }
    let both = told(Answer::new(400, r#"{"__type":"AccessDeniedException","message":null,"Message":"User: me"}"#)).await;
    insta::assert_snapshot!(both, @"amazon/secretsmanager/many/0: Secrets Manager says AccessDeniedException: User: me (allow secretsmanager:GetSecretValue on it in the role's policy; AWS says the same about a secret that does not exist; AWS's request id is 0e7f-request)");
}

/// A throttle is a 400.
#[tokio::test]
async fn what_throttles_is_tried_again_and_then_an_outage() {
    let (bench, aws) = (Bench::new(), Aws::with_secrets(1));
    let (backend, counted) = (bench.backend(&aws), std::sync::atomic::AtomicUsize::new(0));
    aws.says(move |_| {
        let n = counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        (n < 2).then(|| fake::error("ThrottlingException", "Rate exceeded"))
    });
    assert_eq!(field(&read(&backend, "secretsmanager/many/0").await.unwrap(), "value"), "value-0");
    assert_eq!(aws.operations().len(), 3);
    let error = told(fake::error("ThrottlingException", "Rate exceeded")).await;
    assert!(error.fault.is_outage());
    insta::assert_snapshot!(error, @"amazon/secretsmanager/many/0: Secrets Manager says ThrottlingException after 3 tries: Rate exceeded (the account's quota for secretsmanager:GetSecretValue in this region is used up; kubelet tries again by itself; AWS's request id is 0e7f-request)");
}

/// The daemon's clock is an hour slow. Like AWS, the fake refuses what is signed for another time than its own.
#[tokio::test]
async fn a_wrong_clock_is_learnt_from_the_answer() {
    let now: jiff::Timestamp = "2026-11-28T15:00:00Z".parse().unwrap();
    let bench = Bench { clock: Arc::new(ManualClock::at(now)), ..Bench::new() };
    let aws = Aws::with_secrets(2);
    aws.says(|asked| {
        let date = asked.headers["x-amz-date"].to_str().unwrap();
        let late = fake::error("InvalidSignatureException", "Signature expired: 20261128T150000Z is now earlier than 20261128T155500Z");
        (!date.starts_with("20261128T16")).then(|| late.header("date", "Sat, 28 Nov 2026 16:00:00 GMT"))
    });
    let backend = bench.backend(&aws);
    read(&backend, "secretsmanager/many/0").await.unwrap();
    assert_eq!(aws.operations().len(), 2);
    read(&backend, "secretsmanager/many/1").await.unwrap();
    assert_eq!(aws.operations().len(), 1, "it is known by now");
    assert_eq!(backend.core.wire.skew(Service::SecretsManager), 3600);
}

/// A signature that is wrong for another reason is not tried again and again.
#[tokio::test]
async fn a_wrong_key_is_no_wrong_clock() {
    let (bench, aws) = (Bench::new(), Aws::with_secrets(1));
    let backend = bench.backend_with(&format!("http://{}", aws.address), (fake::KEY.0, "another-key"), "", "");
    let error = read(&backend, "secretsmanager/many/0").await.unwrap_err();
    assert_eq!(error.fault, Fault::Unauthenticated);
    assert_eq!(aws.operations().len(), 2, "and once more with what the files hold then");
    assert!(!format!("{error} {error:?} {backend:?}").contains("another-key"));
}

#[tokio::test]
async fn a_session_that_ended_is_made_again_once() {
    let (bench, aws) = (Bench::new(), Aws::with_secrets(3));
    let role = ", assumeRole: { role: \"arn:aws:iam::111122223333:role/secrets\" }";
    let backend = bench.backend_with(&format!("http://{}", aws.address), fake::KEY, role, "");
    read(&backend, "secretsmanager/many/0").await.unwrap();
    assert_eq!(aws.operations(), ["AssumeRole", "GetSecretValue"]);
    let counted = std::sync::atomic::AtomicUsize::new(0);
    aws.says(move |asked| {
        let is_first = asked.operation().contains("Secret") && counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
        is_first.then(|| fake::error("ExpiredTokenException", "The security token included in the request is expired"))
    });
    assert!(at_once(&backend, many(3)).await.iter().all(Result::is_ok));
    let operations = aws.operations();
    assert_eq!(operations[..2], ["BatchGetSecretValue", "AssumeRole"], "{operations:?}");
}

/// Policy has checked one name; AWS may read another one.
#[tokio::test]
async fn an_answer_about_something_else_is_not_delivered() {
    let mut said = Vec::new();
    for (name, arn) in [
        ("many/00", "arn:aws:secretsmanager:eu-west-1:111122223333:secret:many/00-AbCdEf"),
        ("Many/0", "arn:aws:secretsmanager:eu-west-1:111122223333:secret:Many/0-AbCdEf"),
        ("many/0", "arn:aws:secretsmanager:eu-west-1:999999999999:secret:many/0-AbCdEf"),
        ("many/0", "arn:aws:secretsmanager:eu-west-1:111122223333:secret:root/0-AbCdEf"),
        ("", ""),
    ] {
        let answer = json!({ "Name": name, "ARN": arn, "VersionId": "v", "SecretString": "canary-7" });
        let error = told(Answer::json(&answer)).await;
        assert_eq!(error.fault, Fault::Denied);
        assert!(!format!("{error:?}").contains("canary"));
        said.push(error.to_string());
    }
    insta::assert_snapshot!(said.join("\n"), @"
    amazon/secretsmanager/many/0: AWS answers with another secret or version, arn:aws:secretsmanager:eu-west-1:111122223333:secret:many/00-AbCdEf (write the whole ARN, or the name as AWS lists it; AWS's request id is 0e7f-request)
    amazon/secretsmanager/many/0: AWS answers with another secret or version, arn:aws:secretsmanager:eu-west-1:111122223333:secret:Many/0-AbCdEf (write the whole ARN, or the name as AWS lists it; AWS's request id is 0e7f-request)
    amazon/secretsmanager/many/0: AWS answers with a secret of the account 999999999999, and `account` of the backend is 111122223333 (the cluster's admin can correct `account`: it is the account of the role that reads; AWS's request id is 0e7f-request)
    amazon/secretsmanager/many/0: AWS answers with another secret or version, arn:aws:secretsmanager:eu-west-1:111122223333:secret:root/0-AbCdEf (write the whole ARN, or the name as AWS lists it; AWS's request id is 0e7f-request)
    amazon/secretsmanager/many/0: AWS answers with another secret or version, one without a name (write the whole ARN, or the name as AWS lists it; AWS's request id is 0e7f-request)
    ");
}

/// Like a parameter's number, the id of a version is compared with the one in the answer.
#[tokio::test]
async fn another_version_than_the_pinned_one_is_not_delivered() {
    const ID: &str = "0f1e2d3c-0000-4000-8000-123456789abc";
    let (bench, aws) = (Bench::new(), Aws::start());
    let backend = bench.backend(&aws);
    for (version, is_it) in [(ID, true), ("0f1e2d3c-0000-4000-8000-123456789abd", false), ("", false)] {
        aws.says(move |_| Some(Answer::json(&json!({ "Name": "many/0", "VersionId": version, "SecretString": "canary-14" }))));
        match read(&backend, &format!("secretsmanager/many/0@{ID}")).await {
            Ok(secret) => assert!(is_it && field(&secret, "value") == "canary-14"),
            Err(error) => assert!(!is_it && error.fault == Fault::Denied && !format!("{error:?}").contains("canary"), "{error}"),
        }
    }
}

/// The same in a batch: the other requests get their secrets.
#[tokio::test]
async fn a_batch_with_another_secret_in_it_delivers_none_of_that() {
    let (bench, aws) = (Bench::new(), Aws::with_secrets(2));
    aws.says(|asked| {
        let value = |name: &str| {
            let arn = format!("arn:aws:secretsmanager:eu-west-1:111122223333:secret:{name}-AbCdEf");
            json!({ "Name": name, "ARN": arn, "VersionId": "v", "SecretString": format!("of {name}") })
        };
        (asked.operation() == "BatchGetSecretValue").then(|| Answer::json(&json!({ "SecretValues": [value("many/1"), value("root")] })))
    });
    let read = at_once(&bench.backend(&aws), many(2)).await;
    assert_eq!(field(read[0].as_ref().unwrap(), "value"), "value-0", "asked for by itself");
    assert_eq!(field(read[1].as_ref().unwrap(), "value"), "of many/1");
}

#[tokio::test]
async fn the_key_that_it_is_asked_with_is_nobodys_secret() {
    let (bench, aws) = (Bench::new(), Aws::start());
    aws.secret("keys", &format!("{{\"key\":\"{}\"}}", fake::KEY.1));
    aws.secret("other", "x");
    let backend = bench.backend(&aws);
    let error = read(&backend, "secretsmanager/keys").await.unwrap_err();
    assert_eq!(error.fault, Fault::Denied);
    insta::assert_snapshot!(error, @"amazon/secretsmanager/keys: it holds the access key that Keyferry asked for it with, and is not delivered (remove the object from the class, or change the key)");
    let both = at_once(&backend, ["secretsmanager/keys", "secretsmanager/other"].map(str::to_owned)).await;
    assert!(both[0].is_err() && both[1].is_ok());
}

#[tokio::test]
async fn awss_words_are_told_unless_the_admin_says_no() {
    let (bench, aws) = (Bench::new(), Aws::with_secrets(1));
    let words = format!("bad key {} and \u{1b}[31mcolours\nin lines", fake::KEY.1);
    aws.says(move |_| Some(fake::error("ValidationException", &words)));
    let error = read(&bench.backend(&aws), "secretsmanager/many/0").await.unwrap_err().to_string();
    assert!(!error.contains("wJalr") && !error.contains('\u{1b}') && !error.contains('\n'), "{error}");
    assert!(error.contains("[redacted]"), "{error}");
    let silent = bench.backend_with(&format!("http://{}", aws.address), fake::KEY, "", "storeWords: false");
    let error = read(&silent, "secretsmanager/many/0").await.unwrap_err().to_string();
    insta::assert_snapshot!(error, @"amazon/secretsmanager/many/0: Secrets Manager says ValidationException (check the name and the version in the class; AWS's request id is 0e7f-request)");
}

/// A mount pays for each of its failures by its weight, and may have hundreds of them.
#[tokio::test]
async fn a_long_refusal_is_kept_short() {
    for text in ["x", "\u{1f600}"] {
        let error = told(fake::error("AccessDeniedException", &text.repeat(10_000))).await;
        assert!(error.reason.contains(text) && error.weight() <= 4 * 1024, "{} {error}", error.weight());
    }
}

#[tokio::test]
async fn nobody_there_is_an_outage_and_says_where() {
    let bench = Bench::new();
    let aws = Aws::start();
    let address = aws.address;
    drop(aws);
    let backend = bench.backend_with(&format!("http://{address}"), fake::KEY, "", "");
    let cx = FetchContext { deadline: Instant::now() + Duration::from_secs(3), ..cx() };
    let error = backend.fetch(&secret(&backend, "secretsmanager/x"), &cx).await.unwrap_err();
    assert!(error.fault.is_outage(), "{error}");
    assert!(backend.check().await.is_err() && backend.probe("ssm").await.is_err());
}

#[tokio::test]
async fn a_store_that_answers_is_there_whatever_it_says() {
    let (bench, aws) = (Bench::new(), Aws::start());
    let backend = bench.backend(&aws);
    backend.probe("ssm").await.unwrap();
    aws.says(|_| Some(Answer::new(503, "<html>")));
    assert!(backend.probe("ssm").await.is_err());
}

/// What the doctor says about the services, about the clock and about the login.
#[tokio::test]
async fn the_doctor_looks_at_both_services_the_clock_and_the_login() {
    let now: jiff::Timestamp = "2026-11-28T15:00:00Z".parse().unwrap();
    let bench = Bench { clock: Arc::new(ManualClock::at(now)), ..Bench::new() };
    let aws = Aws::start();
    aws.says(|asked| {
        let answer = match asked.operation().as_str() {
            "GetCallerIdentity" => Answer::new(
                200,
                "<GetCallerIdentityResponse><GetCallerIdentityResult><Arn>arn:aws:iam::111122223333:user/keyferry</Arn></GetCallerIdentityResult>\
                 </GetCallerIdentityResponse>",
            ),
            _ => fake::error("MissingAuthenticationTokenException", "Missing Authentication Token"),
        };
        Some(answer.header("date", "Sat, 28 Nov 2026 15:02:00 GMT"))
    });
    let at = format!("http://{}", aws.address);
    let shown = async |backend: Arc<AwsBackend>| {
        let found = backend.examine(None).await;
        let lines: Vec<_> =
            found.iter().map(|found| format!("{:?} {}: {} ({})", found.level, found.what, found.why, found.remedy)).collect();
        lines.join("\n").replace(&at, "AWS")
    };
    insta::assert_snapshot!(shown(bench.backend(&aws)).await, @"
    Ok backend amazon: Secrets Manager answers at AWS ()
    Ok backend amazon: Parameter Store answers at AWS ()
    Warn backend amazon: clock: AWS's clock is 120 s ahead of this node's (set this node's clock by NTP: AWS refuses what is signed for another time, and tokens seem expired)
    Ok backend amazon: login: as arn:aws:iam::111122223333:user/keyferry ()
    ");
    let text =
        format!("region: eu-west-1\nauth: {{ method: irsa }}\nendpoints: {{ secretsmanager: \"{at}\", ssm: \"{at}\", sts: \"{at}\" }}");
    let limits = StoreLimits { secret_bytes: 1024, remembered: 0, clients: 0, calls: 1 };
    let irsa = AwsBackend::open("amazon".parse().unwrap(), &config(&text).unwrap(), limits, Arc::clone(&bench.clock)).unwrap();
    insta::assert_snapshot!(shown(Arc::new(irsa)).await, @"
    Ok backend amazon: Secrets Manager answers at AWS ()
    Ok backend amazon: Parameter Store answers at AWS ()
    Ok backend amazon: STS answers at AWS ()
    Warn backend amazon: clock: AWS's clock is 120 s ahead of this node's (set this node's clock by NTP: AWS refuses what is signed for another time, and tokens seem expired)
    Warn backend amazon: login: not tried: this needs a Pod's token for the audience sts.amazonaws.com (--token sts.amazonaws.com=FILE; keyferry doctor --help shows how to make one)
    ");
}

/// What a mount needs besides the services: STS, and the roles of `auth.assumeRole`.
#[tokio::test]
async fn the_doctor_tries_the_roles_and_the_service_that_gives_them() {
    let (bench, aws) = (Bench::new(), Aws::start());
    let at = format!("http://{}", aws.address);
    aws.says(|asked| match asked.operation().as_str() {
        "GetCallerIdentity" => {
            let arn = "<GetCallerIdentityResult><Arn>arn:aws:iam::111122223333:user/x</Arn></GetCallerIdentityResult>";
            Some(Answer::new(200, arn))
        }
        "AssumeRole" if asked.body.contains("closed") => {
            let denied = "<ErrorResponse><Error><Code>AccessDenied</Code><Message>not authorized</Message></Error></ErrorResponse>";
            Some(Answer::new(403, denied))
        }
        _ => None,
    });
    let role = |name: &str| format!(", assumeRole: {{ role: \"arn:aws:iam::444455556666:role/{name}\" }}");
    let shown = async |backend: Arc<AwsBackend>| {
        let found = backend.examine(None).await;
        let found = found
            .iter()
            .filter(|found| found.what.ends_with("login") || found.why.contains("STS") || found.level == crate::model::Level::Fail);
        let lines: Vec<_> = found.map(|found| format!("{:?} {}: {} ({})", found.level, found.what, found.why, found.remedy)).collect();
        lines.join("\n")
    };
    let mut said = Vec::new();
    for name in ["open", "closed", "${namespace}"] {
        said.push(shown(bench.backend_with(&at, fake::KEY, &role(name), "")).await);
    }
    for (role, account) in [(role("open"), "111122223333"), (role("open"), "444455556666"), (String::new(), "444455556666")] {
        said.push(shown(bench.backend_with(&at, fake::KEY, &role, &format!("account: \"{account}\""))).await);
    }
    let text = format!(
        "region: eu-west-1\nauth: {{ method: irsa }}\nendpoints: {{ secretsmanager: \"{at}\", ssm: \"{at}\", sts: \"http://127.0.0.1:9\" }}"
    );
    let limits = StoreLimits { secret_bytes: 1024, remembered: 0, clients: 0, calls: 1 };
    let irsa = AwsBackend::open("amazon".parse().unwrap(), &config(&text).unwrap(), limits, Arc::clone(&bench.clock)).unwrap();
    said.push(shown(Arc::new(irsa)).await);
    insta::assert_snapshot!(said.join("\n"), @"
    Ok backend amazon: login: as arn:aws:iam::111122223333:user/x, and then as arn:aws:iam::444455556666:role/open ()
    Fail backend amazon: login: AWS STS refuses arn:aws:iam::444455556666:role/closed, auth.assumeRole of the backend: AccessDenied: not authorized (the role's trust policy must allow sts:AssumeRole to the one before it in the chain, with auth.assumeRole's externalId if it asks for one, and that one must be allowed to assume it; AWS's request id is 0e7f-request)
    Warn backend amazon: login: as arn:aws:iam::111122223333:user/x; not tried: the roles of auth.assumeRole, which are different for each Pod (mount a class: if a role refuses, the message names it)
    Warn backend amazon: login: as arn:aws:iam::111122223333:user/x, and then as arn:aws:iam::444455556666:role/open, of the account 444455556666; but `account` of the backend is 111122223333, so Keyferry refuses every plain name (correct `account`)
    Ok backend amazon: login: as arn:aws:iam::111122223333:user/x, and then as arn:aws:iam::444455556666:role/open ()
    Warn backend amazon: login: as arn:aws:iam::111122223333:user/x, of the account 111122223333; but `account` of the backend is 444455556666, so Keyferry refuses every plain name (correct `account`)
    Fail backend amazon: http://127.0.0.1:9: no connection: tcp connect error: Connection refused (os error 111) (is the store up, and do network policies let the daemon out to it? kubelet tries again by itself)
    Warn backend amazon: login: not tried: this needs a Pod's token for the audience sts.amazonaws.com (--token sts.amazonaws.com=FILE; keyferry doctor --help shows how to make one)
    ");
}

/// A listing has no values, and policy decides about each name.
#[tokio::test]
async fn folders_are_made_of_the_names_below() {
    let (bench, aws) = (Bench::new(), Aws::start());
    for name in ["shop/a", "shop/b/c", "shop/b/d", "shop/e", "shopping", "top"] {
        aws.secret(name, "x");
        aws.parameter(&format!("/{name}"), "x");
    }
    let backend = bench.backend(&aws);
    for service in ["secretsmanager", "ssm"] {
        let folder = |name: &str| {
            let name = backend.core.config.canonical(&format!("{service}/{name}x")).unwrap().folder().unwrap();
            let asked = RefParts { method: crate::model::Method::List, ..RefParts::read("amazon".parse().unwrap(), name) };
            SecretRef::from(backend.core.config.admit(asked).unwrap())
        };
        let listed = async |name: &str| backend.fetch(&folder(name), &cx()).await.map(|fetched| field(&fetched.secret, "keys"));
        assert_eq!(listed("shop/").await.unwrap(), r#"["a","b/","e"]"#);
        aws.operations();
        assert_eq!(listed("shop/b/").await.unwrap(), r#"["c","d"]"#);
        assert_eq!(aws.operations().len(), 0, "what was listed a moment ago has it");
        assert_eq!(listed("").await.unwrap(), r#"["shop/","shopping","top"]"#);
        assert_eq!(listed("none/").await.unwrap_err().fault, Fault::NotFound);
    }
    assert!(aws.operations().iter().all(|operation| operation == "ListSecrets" || operation == "DescribeParameters"));
}
