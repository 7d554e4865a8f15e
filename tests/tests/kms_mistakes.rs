//! What an operator gets wrong at a site, and whether the site says so.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;

use keyhaven_tests::kms::{Class, SiteNode, World, world};

fn one_site() -> World {
    world()
        .class(Class::new("all", &["eu"]))
        .site("fra", "eu")
        .start()
}

/// Starts the site anew with this in its configuration in the place of that.
fn restart_with(world: &mut World, old: &str, new: &str) {
    let fra = world.site_mut("fra");
    fra.kill();
    let config = fra.dir.join("signer.toml");
    let text = fs::read_to_string(&config).unwrap();
    assert!(text.contains(old), "{text}");
    fs::write(config, text.replace(old, new)).unwrap();
    fs::remove_file(fra.replica()).unwrap();
    world.restart_site("fra");
}

#[test]
fn m3_a_site_that_central_knows_by_another_name_says_both() {
    let mut world = one_site();
    restart_with(&mut world, "site = \"fra\"", "site = \"paris\"");
    let fra = world.site("fra").running();
    let line = fra.wait_for_text("but central knows").to_string();
    assert!(
        line.contains("\\\"paris\\\"") && line.contains("`fra`"),
        "{line}"
    );
    // A later change does not have it said again.
    world.create_key("a", "ec-p256", "sign", "all");
    fra.wait_for_text("applied");
    let said = fra.log();
    let said = said
        .iter()
        .filter(|line| line.contains("but central knows"));
    assert_eq!(said.count(), 1);
}

#[test]
fn k1_another_centrals_key_is_named_as_the_mistake_that_it_is() {
    let mut world = one_site();
    let other = world.dir().join("other.pem");
    let key = rcgen::KeyPair::generate().unwrap();
    fs::write(&other, key.public_key_pem()).unwrap();
    restart_with(&mut world, "../central.pem", &other.display().to_string());
    let line = world
        .site("fra")
        .running()
        .wait_for_text("refused-record")
        .to_string();
    assert!(line.contains("fetch the right central.pem"), "{line}");
}

#[test]
fn m3_a_site_that_is_not_enrolled_says_who_it_is_and_how_to_enroll_it() {
    let mut world = one_site();
    let address = (world.site("fra").address.ip(), 7444).into();
    let stranger = SiteNode::prepare(&world, "rom", "eu", address, false);
    stranger.write_config(&world, "", "");
    let identity = stranger.identity.clone();
    world.sites.push(stranger);
    world.restart_site("rom");
    let line = world
        .site("rom")
        .running()
        .wait_for_text("not enrolled")
        .to_string();
    let command = format!("kms site add --from … --identity {identity}");
    assert!(line.contains(&command), "{line}");
}
