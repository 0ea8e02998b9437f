//! Requests and answers.

use super::*;

#[tokio::test]
async fn requests_are_answered_one_beside_another() {
    let site = Site::start(Limits::default()).await;
    let client = site.client().await;
    let slow = client.request(get("/slow"));
    let fast = async {
        for _ in 0..100 {
            let response = client.request(get("/")).await.unwrap();
            assert_eq!(
                (response.status().as_u16(), &response.headers()["content-length"]),
                (200, &"5".parse().unwrap())
            );
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
        }
    };
    let (slow, ()) = soon(async { tokio::join!(slow, fast) }).await;
    assert_eq!(slow.unwrap().into_body().collect().await.unwrap().to_bytes(), "at last");
    assert_eq!(site.served(), 101);
    drop(client);
    assert_eq!(soon(site.ended).await.unwrap(), Ok(()));
}

#[tokio::test]
async fn large_bodies_and_trailers_arrive_whole() {
    let site = Site::start(Limits::default()).await;
    let client = site.client().await;
    let large = client.request(get("/large")).await.unwrap().into_body().collect();
    assert_eq!(soon(large).await.unwrap().to_bytes(), vec![7; 3_000_000]);
    let body = client.request(get("/trailers")).await.unwrap().into_body().collect();
    let body = soon(body).await.unwrap();
    assert_eq!(body.trailers().unwrap()["x"], "y");
    assert_eq!(body.to_bytes(), "body");
}

#[tokio::test]
async fn rfc9110_9_3_2_an_answer_to_head_has_no_body() {
    let site = Site::start(Limits::default()).await;
    let client = site.client().await;
    let request = Request::head("https://localhost/").body(()).unwrap();
    let response = soon(client.request(request)).await.unwrap();
    assert_eq!(response.headers()["content-length"], "5");
    assert_eq!(soon(response.into_body().collect()).await.unwrap().to_bytes(), "");
}

#[tokio::test]
async fn rfc9114_4_2_fields_of_one_connection_do_not_go_out() {
    let site = Site::start(Limits::default()).await;
    let response = soon(site.client().await.request(get("/connection"))).await.unwrap();
    assert_eq!(response.headers()["kept"], "yes");
    assert!(!response.headers().contains_key("connection"));
    assert!(!response.headers().contains_key("transfer-encoding"));
}

/// h3 #262: a dropped stream is a clean FIN.
#[tokio::test]
async fn a_body_that_is_cut_does_not_look_whole() {
    let site = Site::start(Limits::default()).await;
    let client = site.client().await;
    for path in ["/cut", "/short"] {
        // A reset may overtake the head.
        let whole = soon(async { client.request(get(path)).await?.into_body().collect().await });
        assert_eq!(whole.await.unwrap_err(), Http3Error::Reset(0x102), "{path}");
    }
    let error = soon(client.request(get("/fails"))).await.unwrap_err();
    assert_eq!(error, Http3Error::Reset(0x102));
    assert!(!error.is_unprocessed());
    soon(client.request(get("/"))).await.expect("the connection goes on");
}

#[tokio::test]
async fn a_client_that_gives_up_ends_the_service() {
    let site = Site::start(Limits { grace: Duration::from_secs(60), ..Limits::default() }).await;
    let client = site.client().await;
    let brief = Duration::from_millis(200);
    assert!(Rt::tokio().timeout(brief, client.request(get("/never"))).await.is_err());
    let Site { drain, ended, wire: _wire, .. } = site;
    drain.unwrap().send(()).unwrap();
    assert_eq!(soon(ended).await.unwrap(), Ok(()), "nothing runs any more");
}
