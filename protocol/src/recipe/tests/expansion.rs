//! What a batch comes to.

use super::*;
use crate::action::Rootfs;
use crate::graph::{Graph, JobIndex};

const DEVICES: &str = "[matrix]\ndevice = [\"RPi4\", \"RPi5\"]\nkind = [\"a\", \"b\"]\n";

/// Only axes that are mentioned, by a recipe or by what it needs, make jobs.
#[test]
fn equal_jobs_of_different_cells_are_built_once() {
    let recipes = [
        small("image", "[[need]]\nrecipe = \"kernel\"\n[[need]]\nrecipe = \"tool\"\n"),
        small("kernel", "[vars]\nDEVICE = \"{device}\"\n[[need]]\nrecipe = \"tool\"\n"),
        small("tool", ""),
    ];
    let plan = plan(&batch(DEVICES), &recipes);
    assert_eq!(labels(&plan), ["tool", "kernel[device=RPi4]", "kernel[device=RPi5]", "image[device=RPi4]", "image[device=RPi5]"]);
    assert_eq!(plan.cells.len(), 4);
    assert_eq!(plan.jobs[0].cells.len(), 4);
    assert_eq!(plan.jobs[1].cells, [CellIndex(0), CellIndex(1)]);
    let kernel = &plan.graph.jobs[1];
    assert_eq!(kernel.vars["DEVICE"], "RPi4");
    assert_eq!((kernel.needs[0].job, kernel.needs[0].at.as_str()), (JobIndex(0), "/needs/tool"));
    assert_eq!(plan.graph.jobs[4].needs[0].job, JobIndex(2));
    // The order of the files is nobody's business.
    let mut turned = recipes.to_vec();
    turned.reverse();
    assert_eq!(super::plan(&batch(DEVICES), &turned).graph, plan.graph);
}

/// A name that differs and gives the same text is no difference.
#[test]
fn cells_that_come_to_the_same_are_one_job() {
    let batch = batch(
        "[matrix]\ninclude = [{ device = \"a\", arch-flag = \"x\" }, { device = \"b\", arch-flag = \"x\" }, { device = \"c\", arch-flag = \"y\" }]\n",
    );
    // The templated name depends on `device`; what it names does not differ.
    let recipes = [
        small("app", "[[need]]\nrecipe = \"lib-{device}\"\n"),
        small("lib-a", ""),
        small("lib-b", ""),
        small("lib-c", "[vars]\nC = \"{arch-flag}\"\n"),
    ];
    let plan = plan(&batch, &recipes);
    let keys: std::collections::BTreeSet<_> = plan.jobs.iter().map(|job| job.key).collect();
    // lib-a and lib-b are equal actions under two names; app[a] and app[b] differ by the place of their need.
    assert_eq!(keys.len(), plan.jobs.len() - 1);
    let with_at =
        [small("app", "[[need]]\nrecipe = \"lib-{device}\"\nat = \"/lib\"\n"), recipes[1].clone(), recipes[2].clone(), recipes[3].clone()];
    let apps: Vec<_> = super::plan(&batch, &with_at).graph.jobs.into_iter().filter(|job| job.recipe == "app").collect();
    assert_eq!(apps.len(), 2, "one for a and b, one for c");
}

#[test]
fn the_symbolic_key_holds_what_changes_the_action_and_nothing_else() {
    let key = |text: &str| {
        plan(&BatchFile::of_recipe(&parse_recipe("r.toml", text).unwrap()), &[parse_recipe("r.toml", text).unwrap()]).jobs[0].key
    };
    let changed = |from: &str, to: &str| key(&LUA.replacen(from, to, 1));
    let lua = key(LUA);
    assert_eq!(changed("name = \"lua\"", "name = \"lua5\""), lua);
    assert_eq!(changed("example.org", "example.com"), lua);
    assert_eq!(changed("[steps]", "[limits]\nmemory = \"3 GiB\"\n[steps]"), lua);
    assert_eq!(changed("5.4.6\"\nepoch", "5.4.7\"\nepoch"), lua);
    for (from, to) in [
        ("7d5e", "7d5f"),
        ("make", "gmake"),
        ("\"bin/lua\"", "\"lua\""),
        ("1700000000", "1700000001"),
        ("[[source]]\nname = \"lua\"", "[[source]]\nname = \"l\""),
        ("[steps]", "[limits]\ncores = 2\n[steps]"),
        ("[steps]", "[steps]\nshell = \"bash\""),
        ("[steps]", "[platform]\narch = \"arm\"\n[steps]"),
    ] {
        assert_ne!(changed(from, to), lua, "{from}");
    }
}

#[test]
fn exclude_takes_cells_out_and_include_adds_cells_and_axes() {
    let cells = |more: &str| {
        let recipe = small("a", "[vars]\nD = \"{device}\"\n");
        plan(&batch(more), &[recipe]).cells.iter().map(|cell| cell.values().cloned().collect::<Vec<_>>().join("-")).collect::<Vec<_>>()
    };
    assert_eq!(cells(DEVICES), ["RPi4-a", "RPi4-b", "RPi5-a", "RPi5-b"]);
    assert_eq!(cells(&format!("{DEVICES}exclude = [{{ device = \"RPi4\" }}]\n")), ["RPi5-a", "RPi5-b"]);
    assert_eq!(
        cells(&format!(
            "{DEVICES}exclude = [{{ device = \"RPi4\" }}]\ninclude = [{{ device = \"RPi3\", kind = \"c\" }}, {{ kind = \"a\", zoom = \"1\" }}]\n"
        )),
        ["RPi5-a-1", "RPi5-b", "RPi3-c"]
    );
    let errors = |more: &str| expand_errors(&batch(&format!("{DEVICES}{more}")), &[small("a", "")]);
    assert_eq!(errors("exclude = [{ devise = \"RPi4\" }]"), ["batch.toml:7:14: the matrix has no axis `devise` (did you mean `device`?)"]);
    assert_eq!(
        errors("exclude = [{ device = \"RPi6\" }]"),
        ["batch.toml:7:12: `exclude` takes out no cell of the matrix (look for a value that is spelled differently)"]
    );
    assert_eq!(
        errors("include = [{ device = \"RPi6\" }]"),
        ["batch.toml:7:12: `include` fits no cell of the matrix (to add a cell, give a value to `kind` too)"]
    );
    assert_eq!(
        errors("exclude = [{ kind = \"a\" }, { kind = \"b\" }]"),
        ["batch.toml:2:8: the matrix has no cell (`exclude` takes out all of them)"]
    );
}

#[test]
fn a_need_names_another_cell_by_with() {
    let recipes =
        [small("app", "[[need]]\nrecipe = \"lib\"\nwith = { device = \"RPi5\" }\n"), small("lib", "[vars]\nD = \"{device}{kind}\"\n")];
    let plan = plan(&batch(DEVICES), &recipes);
    // `device` is held by `with`, so only `kind` makes a difference to the app.
    assert_eq!(labels(&plan)[4..], ["app[kind=a]", "app[kind=b]"]);
    let need = plan.graph.jobs[4].needs[0].job.0 as usize;
    assert_eq!(plan.graph.jobs[need].label(), "lib[device=RPi5,kind=a]");
}

#[test]
fn an_unknown_axis_is_an_error_where_it_is_mentioned() {
    let recipe = small("a", "[vars]\nD = \"x-{devise}\"\n");
    assert_eq!(
        expand_errors(&batch(DEVICES), std::slice::from_ref(&recipe)),
        ["a.toml:8:8: there is no axis `devise` (did you mean `device`?)"]
    );
    assert_eq!(
        expand_errors(&batch(""), std::slice::from_ref(&recipe)),
        ["a.toml:8:8: there is no axis `devise` (the batch has no [matrix]; write one, or set `devise` when you submit)"]
    );
    let set = ExpandOptions { set: [("devise".to_owned(), "y".to_owned())].into(), ..options() };
    assert_eq!(expand(&batch(""), &[recipe], &set).unwrap().graph.jobs[0].vars["D"], "x-y");
    let recipe = small("a", "[[need]]\nrecipe = \"a\"\nwith = { devise = \"1\" }\n");
    assert_eq!(expand_errors(&batch(DEVICES), &[recipe]), ["a.toml:9:10: there is no axis `devise` (did you mean `device`?)"]);
}

#[test]
fn an_axis_that_only_some_cells_have_is_an_error_in_the_others() {
    let batch = batch("[matrix]\ndevice = [\"a\", \"b\"]\ninclude = [{ device = \"a\", soc = \"x\" }]\n");
    assert_eq!(
        expand_errors(&batch, &[small("r", "[vars]\nS = \"{soc}{device}\"\n")]),
        ["r.toml:8:6: axis `soc` has no value in cell [device=b] (give it one by `include`, or exclude the cell)"]
    );
}

#[test]
fn set_holds_an_axis_of_the_matrix() {
    let set = |value: &str| ExpandOptions { set: [("device".to_owned(), value.to_owned())].into(), ..options() };
    let recipe = [small("r", "[vars]\nS = \"{device}\"\n")];
    assert_eq!(labels(&expand(&batch(DEVICES), &recipe, &set("RPi5")).unwrap()), ["r[device=RPi5]"]);
    assert_eq!(
        lines(&expand(&batch(DEVICES), &recipe, &set("RPi6")).unwrap_err()),
        ["batch.toml:2:8: axis `device` has no value \"RPi6\" to be set to (its values are `RPi4` or `RPi5`)"]
    );
}

#[test]
fn a_missing_need_is_refused_with_the_nearest_name() {
    let recipes = [small("app", "[[need]]\nrecipe = \"zlip\"\n"), small("zlib", "")];
    assert_eq!(expand_errors(&batch(""), &recipes), ["app.toml:8:10: the batch has no recipe `zlip` (did you mean `zlib`?)"]);
    let recipes = [small("app", "[[need]]\nrecipe = \"gcc\"\n")];
    assert_eq!(
        expand_errors(&batch(""), &recipes),
        ["app.toml:8:10: the batch has no recipe `gcc` (add its file to `recipes` of the batch)"]
    );
}

#[test]
fn a_cycle_is_named_whole() {
    let need = |name: &str| format!("[[need]]\nrecipe = \"{name}\"\n");
    let recipes = [small("c", &need("a")), small("b", &need("c")), small("a", &need("b")), small("d", &need("a"))];
    assert_eq!(
        expand_errors(&batch(DEVICES), &recipes),
        ["a.toml:7:1: needs go in a cycle: a → b → c → a (one of them must do without the next)"]
    );
    assert_eq!(
        expand_errors(&batch(""), &[small("a", &need("a"))]),
        ["a.toml:7:1: needs go in a cycle: a → a (one of them must do without the next)"]
    );
    // The same recipe in two cells, each needing the other.
    let batch = batch("[matrix]\ninclude = [{ stage = \"1\", other = \"2\" }, { stage = \"2\", other = \"1\" }]\n");
    let recipe = small("gcc", "[vars]\nS = \"{stage}\"\n[[need]]\nrecipe = \"gcc\"\nwith = { stage = \"{other}\", other = \"{stage}\" }\n");
    assert_eq!(
        expand_errors(&batch, &[recipe]),
        [
            "gcc.toml:9:1: needs go in a cycle: gcc[other=2,stage=1] → gcc[other=1,stage=2] → gcc[other=2,stage=1] (one of them must do without the next)"
        ]
    );
}

/// Stages are cells of one recipe, as long as they end somewhere.
#[test]
fn a_recipe_may_need_itself_in_another_cell() {
    let batch = batch("[matrix]\ninclude = [{ stage = \"1\", before = \"seed\" }, { stage = \"2\", before = \"gcc\" }]\n");
    let recipes = [
        small("gcc", "[vars]\nS = \"{stage}\"\n[[need]]\nrecipe = \"{before}\"\nwith = { stage = \"1\", before = \"seed\" }\n"),
        small("seed", ""),
    ];
    let plan = plan(&batch, &recipes);
    assert_eq!(labels(&plan), ["seed", "gcc[before=seed,stage=1]", "gcc[before=gcc,stage=2]"]);
}

#[test]
fn a_need_of_a_cell_that_is_not_there_is_refused() {
    let app = |device: &str| small("app", &format!("[[need]]\nrecipe = \"lib\"\nwith = {{ device = \"{device}\" }}\n"));
    let lib = small("lib", "[vars]\nD = \"{device}{kind}\"\n");
    assert_eq!(
        expand_errors(&batch(DEVICES), &[app("RPi55"), lib.clone()]),
        [
            "app.toml:7:1: the matrix has no cell for `lib[device=RPi55,kind=a]` (`device` has no value `RPi55`; did you mean `RPi5`?)",
            "app.toml:7:1: the matrix has no cell for `lib[device=RPi55,kind=b]` (`device` has no value `RPi55`; did you mean `RPi5`?)",
        ]
    );
    let excluded = batch(&format!("{DEVICES}exclude = [{{ device = \"RPi5\", kind = \"a\" }}]\n"));
    assert_eq!(
        expand_errors(&excluded, &[app("RPi5"), lib]),
        [
            "app.toml:7:1: the matrix has no cell for `lib[device=RPi5,kind=a]` (`exclude` takes it out, or it was never in; name another cell by `with`)"
        ]
    );
    // A recipe to which the excluded axis means nothing is there all the same.
    plan(&excluded, &[app("RPi5"), small("lib", "[vars]\nD = \"{device}\"\n")]);
}

#[test]
fn two_recipes_of_one_name_are_refused() {
    let one = small("a", "");
    let two = parse_recipe("two.toml", "[recipe]\nname = \"a\"\n[steps]\nx = \"\"\n[outputs]\no = \"o\"\n").unwrap();
    assert_eq!(expand_errors(&batch(""), &[one, two]), ["two.toml:2:8: another recipe is named `a` too (the other one is a.toml:2:8)"]);
    assert_eq!(expand_errors(&batch(""), &[]), ["batch.toml:3:12: the batch has no recipe (no file fits the patterns of `recipes`)"]);
}

#[test]
fn each_makes_a_job_for_each_architecture() {
    let each = "[platform]\neach = [\"x86_64\", \"aarch64\", \"arm\"]\nnever = { \"linux/arm\" = \"no float\" }\n";
    let lib = small("lib", &format!("[vars]\nA = \"{{arch}}\"\n{each}"));
    let app = small("app", &format!("[[need]]\nrecipe = \"lib\"\n{}", each.replace(", \"arm\"", "")));
    let plan = plan(&batch("[batch.targets]\n\"lib-{arch}\" = \"lib/out\"\n"), &[app, lib.clone()]);
    assert_eq!(labels(&plan), ["lib[arch=aarch64]", "lib[arch=x86_64]", "app[arch=aarch64]", "app[arch=x86_64]"]);
    assert_eq!(plan.graph.jobs[0].environment.arch, ["aarch64".to_owned()].into());
    assert_eq!(plan.graph.jobs[0].targets, [("lib-aarch64".to_owned(), "out".to_owned())].into());
    assert_eq!(plan.skipped, [Skipped { label: "lib[arch=arm]".into(), reason: "no float".into() }]);
    assert_eq!(
        expand_errors(&batch(""), &[small("app", "[[need]]\nrecipe = \"lib\"\n"), lib.clone()]),
        [
            "app.toml:7:1: `lib` has a job for each architecture; which one is needed is not said (write `with = { arch = … }`, `x86_64`, `aarch64` or `arm`)"
        ]
    );
    assert_eq!(
        expand_errors(&batch(""), &[small("app", "[[need]]\nrecipe = \"lib\"\nwith = { arch = \"arm\" }\n"), lib.clone()]),
        ["app.toml:7:1: `lib[arch=arm]` is never built: no float (leave the need out, or name another cell by `with`)"]
    );
    assert_eq!(
        expand_errors(&batch("[matrix]\narch = [\"arm\"]\n"), std::slice::from_ref(&lib)),
        ["lib.toml:10:9: `each` makes an axis `arch`, but the matrix has one already (write `arch = \"{arch}\"` here, or rename the axis)"]
    );
    assert_eq!(
        expand_errors(&batch(""), &[small("app", "[vars]\nA = \"{arch}\"\n"), lib]),
        ["app.toml:8:6: axis `arch` is only known where [platform] has `each`"]
    );
}

#[test]
fn platforms_and_defaults_become_the_environment() {
    let job = |more: &str| plan(&batch(""), &[small("a", more)]).graph.jobs.remove(0);
    let plain = job("");
    assert_eq!((plain.cores, plain.limits.memory, plain.limits.disk), (1, 2 << 30, 4 << 30));
    assert_eq!((plain.limits.wall.as_secs(), plain.limits.silent.as_secs()), (3600, 600));
    assert_eq!((plain.shell.as_slice(), plain.environment.os.as_str()), (["sh".to_owned(), "-e".to_owned()].as_slice(), "linux"));
    assert_eq!(plain.environment.rootfs, Rootfs::Host);
    assert_eq!(plain.environment.arch, ["x86_64".to_owned()].into());
    let hash = "ab".repeat(32);
    let tree = job(&format!("[environment]\nrootfs = \"{hash}\"\nprograms = [\"cmake\"]\n"));
    assert_eq!(tree.environment.rootfs, Rootfs::Tree(hash.parse().unwrap()));
    assert!(tree.environment.arch.is_empty() && tree.environment.programs.is_empty());
    assert_eq!(job("[environment]\nprograms = [\"cmake\"]\n").environment.programs, ["cmake".to_owned()].into());
    let never = job("[platform]\narch = [\"x86_64\", \"arm\"]\nnever = { \"linux/arm\" = \"x\", \"netbsd/x86_64\" = \"y\" }\n");
    assert_eq!(never.environment.arch, ["x86_64".to_owned()].into());
    assert_eq!(
        expand_errors(&batch(""), &[small("a", "[platform]\nnever = { \"linux\" = \"x\" }\n")]),
        ["a.toml:8:11: `never` leaves no machine on which `a` could be built"]
    );
}

#[test]
fn an_environment_that_nobody_named_is_refused() {
    let recipe = [small("a", "[environment]\nrootfs = \"debian-c@3\"\n")];
    assert_eq!(
        expand_errors(&batch(""), &recipe),
        ["a.toml:8:10: environment debian-c@3 is not known in this network (it has none; write \"host\", or name one by `barn env add`)"]
    );
    let named = |name: &str| ExpandOptions { environments: [(name.to_owned(), crate::id::BlobHash([7; 32]))].into(), ..options() };
    assert_eq!(
        lines(&expand(&batch(""), &recipe, &named("debian-c@2")).unwrap_err()),
        ["a.toml:8:10: environment debian-c@3 is not known in this network (did you mean `debian-c@2`?)"]
    );
    let plan = expand(&batch(""), &recipe, &named("debian-c@3")).unwrap();
    assert_eq!(plan.graph.jobs[0].environment.rootfs, Rootfs::Tree(crate::id::BlobHash([7; 32])));
}

#[test]
fn targets_name_outputs_and_may_not_collide() {
    let image = small("image", "[vars]\nD = \"{device}\"\n");
    let targets = |line: &str| batch(&format!("[batch.targets]\n{line}\n{DEVICES}"));
    let plan = plan(&targets("\"LE-{device}.img\" = \"image/out\""), std::slice::from_ref(&image));
    assert_eq!(plan.graph.jobs[1].targets, [("LE-RPi5.img".to_owned(), "out".to_owned())].into());
    let errors = |line: &str| expand_errors(&targets(line), std::slice::from_ref(&image));
    assert_eq!(
        errors("\"LE.img\" = \"image/out\""),
        [
            "batch.toml:5:1: target `LE.img` is given by `image[device=RPi4]` and by `image[device=RPi5]` (mention the axis in the name, or take another name)"
        ]
    );
    assert_eq!(errors("\"LE-{device}\" = \"imag/out\"")[0], "batch.toml:5:17: the batch has no recipe `imag` (did you mean `image`?)");
    assert_eq!(errors("\"LE-{device}\" = \"image/ou\"")[0], "batch.toml:5:17: `image[device=RPi4]` has no output `ou` (it has `out`)");
    assert_eq!(errors("\"LE-{devise}\" = \"image/out\"")[0], "batch.toml:5:5: there is no axis `devise` (did you mean `device`?)");
    // A file below an output that is a folder.
    super::plan(&targets("\"LE-{device}\" = \"image/out/boot/LE.img\""), &[image]);
}

#[test]
fn values_that_are_wrong_once_expanded_are_refused() {
    let batch = batch("[matrix]\nv = [\"../x\"]\n");
    let errors = |more: &str| expand_errors(&batch, &[small("a", more)]);
    assert_eq!(
        errors("[limits]\nmemory = \"{v}\"\n"),
        ["a.toml:8:10: \"../x\" is not a size: a number is wanted first (write for example \"2 GiB\")"]
    );
    assert_eq!(
        errors("[limits]\ncores = \"{v}\"\n"),
        ["a.toml:8:9: \"../x\" is no number of cores (a whole number from 1 to 1024 is wanted)"]
    );
    assert_eq!(
        errors("\"{v}\" = \"x\"\n"),
        ["a.toml:7:1: path \"../x\": has a part `.` or `..` (write a path without a leading `/`, without `.` and `..`)"]
    );
    let two = "[[source]]\nname = \"s\"\npath = \"a\"\n[[source]]\nname = \"s\"\npath = \"b\"\n";
    assert_eq!(errors(two), ["a.toml:11:8: another source is named `s` too (both would lie in one place)"]);
}

#[test]
fn sources_are_asked_for_once_and_resolved_into_actions() {
    let lua = parse_recipe("lua.toml", LUA).unwrap();
    let undated = LUA.replacen("epoch = 1700000000\n", "", 1).replacen("\"lua\"", "\"lua2\"", 1);
    let lua2 = parse_recipe("lua2.toml", &undated).unwrap();
    let app = small("app", "[[need]]\nrecipe = \"lua2\"\n");
    let plan = plan(&batch(""), &[lua, lua2, app]);
    assert_eq!(plan.requests.len(), 1);
    assert_eq!(plan.requests[0].recipe, "lua");
    assert_eq!(plan.requests[0].place.line_column(), (6, 1));
    let graph = plan.resolve(&found(&plan, Some(1_600_000_000))).unwrap();
    assert_eq!(
        graph.jobs.iter().map(|job| (job.recipe.as_str(), job.epoch)).collect::<Vec<_>>(),
        [("lua", 1_700_000_000), ("lua2", 1_600_000_000), ("app", 1_600_000_000),]
    );
    assert_eq!((graph.jobs[0].sources[0].at.as_str(), graph.jobs[0].sources[0].file_name.as_str()), ("lua", "lua-5.4.6.tar.gz"));
    // What nobody dates is as old as archives can say.
    assert_eq!(plan.resolve(&found(&plan, None)).unwrap().jobs[2].epoch, EPOCH_DEFAULT);
    assert_eq!(Graph::from_bytes(&graph.to_bytes()).unwrap(), graph);
    let missing = plan.resolve(&BTreeMap::new()).unwrap_err();
    assert_eq!(missing.to_string(), "lua.toml:6:1: source `lua` of `lua` was not found");
    assert_eq!(plan.find("lua2"), Some(JobIndex(1)));
}
