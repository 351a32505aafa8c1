//! Each server is what the tests take it for: one test for each, and one for the proxy in front of them.

use crate::proxy::Proxy;
use crate::support::noise;

use super::client::{Answer, Curl};
use super::places::{AZURE_ACCOUNT, OWNER, WRITER, shared_access_signature};
use super::{Service, What, Who, shared};

fn expect(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{}", answer.text());
}

#[test]
fn seaweedfs_heeds_conditions_rights_and_locks() {
    let service = shared(What::SeaweedFs);
    let once = || service.s3(Who::Owner).field("If-None-Match: *").put("/alluvium/condition", b"first");
    expect(&once(), 200);
    expect(&once(), 412);
    expect(&service.s3(Who::Owner).get("/alluvium/condition"), 200);
    assert!(service.s3(Who::Owner).get("/alluvium?list-type=2").text().contains("<Key>condition</Key>"));
    expect(&Curl::new(service.port()).get("/alluvium/condition"), 403);

    let bucket = service.bucket_that_keeps("keeps-what-it-has");
    let object = format!("/{bucket}/object");
    expect(&service.s3(Who::Writer).put(&object, b"kept"), 200);
    expect(&service.s3(Who::Writer).delete(&object), 403);
    expect(&service.s3(Who::Writer).get(&object), 200);
    assert!(service.s3(Who::Writer).get(&format!("/{bucket}?list-type=2")).text().contains("<Key>object</Key>"));
    expect(&service.s3(Who::Owner).delete(&object), 204);

    let bucket = service.bucket_with_lock("has-a-lock");
    assert!(service.s3(Who::Owner).get(&format!("/{bucket}?object-lock=")).text().contains("Enabled"));
}

#[test]
fn seaweedfs_keeps_what_it_had_when_it_is_killed() {
    let service = Service::start(What::SeaweedFs);
    expect(&service.s3(Who::Owner).put("/alluvium/object", b"kept"), 200);
    service.kill();
    expect(&service.s3(Who::Owner).get("/alluvium/object"), 0);
    service.restart();
    let answer = service.s3(Who::Owner).get("/alluvium/object");
    expect(&answer, 200);
    assert_eq!(answer.body, b"kept");
}

#[test]
fn rclone_s3_takes_no_notice_of_conditions() {
    let service = shared(What::RcloneS3);
    let once = |body| service.s3(Who::Owner).field("If-None-Match: *").put("/alluvium/condition", body);
    expect(&once(b"first"), 200);
    expect(&once(b"again"), 200);
    assert_eq!(service.s3(Who::Owner).get("/alluvium/condition").body, b"again");
    expect(&Curl::new(service.port()).signed("stranger").get("/alluvium/condition"), 403);
}

#[test]
fn azurite_heeds_conditions() {
    let service = shared(What::Azurite);
    let once = || service.azure(|c, path| c.field("If-None-Match: *").put(path, b"first"), "/alluvium/condition");
    expect(&once(), 201);
    expect(&once(), 409);
    let read = service.azure(Curl::get, "/alluvium/condition");
    expect(&read, 200);
    assert_eq!(read.body, b"first");
    let list = service.azure(Curl::get, "/alluvium?restype=container&comp=list");
    assert!(list.text().contains("<Name>condition</Name>"), "{}", list.text());
    expect(&Curl::new(service.port()).get("/devstoreaccount1/alluvium/condition"), 403);
}

#[test]
fn the_gcs_emulator_takes_no_notice_of_conditions() {
    let service = shared(What::Gcs);
    let path = "/upload/storage/v1/b/alluvium/o?uploadType=media&name=condition&ifGenerationMatch=0";
    let once = |body| Curl::new(service.port()).field("content-type: text/plain").post(path, body);
    expect(&once(b"first"), 200);
    expect(&once(b"again"), 200);
    let read = Curl::new(service.port()).get("/storage/v1/b/alluvium/o/condition?alt=media");
    expect(&read, 200);
    assert_eq!(read.body, b"again");
    assert!(Curl::new(service.port()).get("/storage/v1/b/alluvium/o").text().contains("condition"));
}

#[test]
fn sftp_lets_the_right_key_in() {
    let service = shared(What::Sftp);
    let data = service.folder().join("data").display().to_string();
    let listed = service.sftp(service.port(), &format!("cd {data}\nput user_key.pub alluvium/object\nls alluvium\n"));
    assert!(listed.contains("object"), "{listed}");
    let sent = std::fs::read(service.folder().join("data/alluvium/object")).expect("arrived");
    assert_eq!(sent, std::fs::read(service.folder().join("user_key.pub")).expect("a key"));
}

#[test]
fn wsgidav_heeds_conditions_and_rclone_webdav_does_not() {
    for (what, again) in [(What::WsgiDav, 412), (What::RcloneWebDav, 201)] {
        let service = shared(what);
        let once = || Curl::new(service.port()).field("If-None-Match: *").put("/alluvium/condition", b"first");
        expect(&once(), 201);
        expect(&once(), again);
        let read = Curl::new(service.port()).get("/alluvium/condition");
        expect(&read, 200);
        assert_eq!(read.body, b"first");
    }
}

#[test]
fn a_proxy_stands_in_front_of_each() {
    for what in [What::SeaweedFs, What::RcloneS3, What::Azurite, What::Gcs, What::WsgiDav, What::RcloneWebDav] {
        let service = shared(what);
        let proxy = Proxy::http(service.port(), 1);
        let bytes = noise(300_000, 1);
        let (place, other) = (service.place_over(proxy.port()), service.place());
        assert!(place.contains(&proxy.port().to_string()) && other.contains(&service.port().to_string()), "{place}");
        assert_ne!(place.rsplit("place-").next(), other.rsplit("place-").next());
        let through = || Curl::new(proxy.port());
        let (put, read) = match what {
            // A signature covers the address that the client sees.
            What::SeaweedFs | What::RcloneS3 => {
                let put = through().signed(OWNER).put("/alluvium/through", &bytes);
                (put, through().signed(OWNER).get("/alluvium/through"))
            }
            What::Azurite => {
                let path = format!("/{AZURE_ACCOUNT}/alluvium/through?{}", shared_access_signature());
                let put = through().field("x-ms-version: 2021-12-02").field("x-ms-blob-type: BlockBlob");
                (put.put(&path, &bytes), through().get(&path))
            }
            What::Gcs => {
                let put = "/upload/storage/v1/b/alluvium/o?uploadType=media&name=through";
                let put = through().field("content-type: application/octet-stream").post(put, &bytes);
                (put, through().get("/storage/v1/b/alluvium/o/through?alt=media"))
            }
            What::WsgiDav | What::RcloneWebDav | What::Sftp => {
                (through().put("/alluvium/through", &bytes), through().get("/alluvium/through"))
            }
        };
        assert!(matches!(put.status, 200 | 201), "{what:?}: {}", put.text());
        assert!(read.status == 200 && read.body == bytes, "{what:?}: {}", read.status);
        assert_eq!(proxy.counts().all(), 2, "{what:?}: {:?}", proxy.counts());
    }
    let service = shared(What::Sftp);
    let proxy = Proxy::tcp(service.port(), 1);
    let place = service.place_over(proxy.port());
    assert!(place.contains("known-hosts=") && service.environment().is_empty(), "{place}");
    assert!(service.sftp(proxy.port(), "ls /\n").contains("tmp"));
    assert!(proxy.counts().bytes_up > 0);
    assert!(shared(What::SeaweedFs).environment_of(Who::Writer).contains(&("AWS_ACCESS_KEY_ID", WRITER.to_owned())));
}
