"""What Python sees is what the command says, of the same guests. HEIRLOOM is the command.

Run by `make python`, which also says what was not tried, because PyPI has it and cannot be reached.
"""

import csv
import io
import json
import os
import pathlib
import re
import socket
import subprocess
import tempfile
import unittest

import heirloom

COMMAND = os.environ["HEIRLOOM"]
HERE = pathlib.Path(__file__).parent
FOLDER = tempfile.TemporaryDirectory()
RECORDING = str(pathlib.Path(FOLDER.name, "guest.rec"))
# A moment at which a family lives.
GUEST = f"rec:{RECORDING}@60"


def command(*arguments, fails=False):
    """What the command prints; of one that fails, its error."""
    ran = subprocess.run([COMMAND, *arguments], capture_output=True, text=True, timeout=120)
    if fails:
        assert ran.returncode != 0, arguments
        return ran.stderr
    assert ran.returncode in (0, 1), ran.stderr
    return ran.stdout


def setUpModule():
    command("run", "--record", RECORDING)


def tearDownModule():
    FOLDER.cleanup()


class Inspecting(unittest.TestCase):
    def setUp(self):
        self.guest = heirloom.open(GUEST)

    def test_address_spaces_areas_walks_and_verdicts_are_the_commands(self):
        roots = json.loads(command("roots", GUEST, "--json"))
        self.assertGreater(len(roots["roots"]), 2)
        self.assertEqual(self.guest.roots(), roots["roots"])
        self.assertEqual(self.guest.clusters(), roots["clusters"])
        self.assertEqual(self.guest.subject, roots["target"])
        self.assertEqual(self.guest.layout(), json.loads(command("layout", GUEST, "--json")))
        self.assertEqual(self.guest.check(), json.loads(command("check", GUEST, "--json")))
        address = self.guest.layout()["kernel_image"]["range"]["first"]
        walk = command("translate", GUEST, address, "--root", "kernel", "--json")
        for given in (address, int(address, 16)):
            self.assertEqual(self.guest.translate(given, root="kernel"), json.loads(walk))
        self.assertIn("translation", json.loads(walk)["walk"])

    def test_a_root_is_an_address_or_a_name(self):
        address = self.guest.translate(0, root="kernel")["walk"]["root"]
        for root in (address, int(address, 16), int(address, 16) | 0xABC):
            self.assertEqual(self.guest.translate(0, root=root)["walk"]["root"], address)
        self.assertNotEqual(self.guest.translate("pid:1:0")["walk"]["root"], address)

    def test_what_is_required_or_strict_is_heard(self):
        missing = self.guest.check(require=["self-map-supervisor"])["required_not_tried"]
        self.assertEqual([rule["rule"] for rule in missing], ["self-map-supervisor"])
        strict = json.loads(command("check", GUEST, "--strict-user", "--json"))
        self.assertEqual(self.guest.check(strict_user=True), strict)

    def test_errors_are_the_commands_sentences(self):
        def said(call):
            with self.assertRaises(heirloom.Error) as caught:
                call()
            return str(caught.exception)

        for target in ("/nowhere/guest.core", "raw:", f"rec:{RECORDING}@100000", __file__):
            message = said(lambda: heirloom.open(target))
            shown = command("roots", target, fails=True)
            # The command breaks its lines.
            self.assertIn("".join(message.split()), "".join(shown.split()), target)
        self.assertIn("names no address space", said(lambda: self.guest.maps(root="somebody")))
        self.assertIn("no address space pid4000", said(lambda: self.guest.maps(root="pid4000")))
        self.assertIn("no symbols", said(lambda: self.guest.translate("init_task")))
        self.assertIn("no-loop", said(lambda: self.guest.check(require=["no-lop"])))
        self.assertIn("FIRST-LAST", said(lambda: self.guest.maps(within="5")))
        self.assertIn("generic", said(lambda: heirloom.open(GUEST, profile="windows")))
        with self.assertRaises(TypeError):
            self.guest.translate(1.5)
        with self.assertRaises(OverflowError):
            self.guest.translate(1 << 64)

    def test_a_recording_has_a_guest_for_each_event(self):
        run = heirloom.Recording(pathlib.Path(RECORDING))
        events = run.events()
        self.assertEqual(len(events), len(run))
        self.assertIn("end", run.ending)
        captured = [event["number"] for event in events if event["captured"]]
        counts = [len(run.at(number).roots()) for number in captured[::10]]
        self.assertEqual(min(counts[0], 2), counts[0])
        self.assertGreater(max(counts), counts[0])
        self.assertEqual(run.at(60).roots(), self.guest.roots())
        self.assertEqual(run.at().roots(), heirloom.open(RECORDING).roots())

    def test_what_the_stubs_name_is_there_and_described(self):
        stubs = (HERE.parent / "heirloom.pyi").read_text()
        owner, seen = heirloom, 0
        for line in stubs.splitlines():
            if found := re.match(r"class (\w+)", line):
                owner = getattr(heirloom, found[1])
            elif found := re.match(r"( *)def (\w+)", line):
                if not found[1]:
                    owner = heirloom
                named = getattr(owner, found[2])
                self.assertTrue(named.__doc__, found[2])
                seen += 1
        self.assertGreater(seen, 10)
        for owner in (heirloom.Target, heirloom.Recording, heirloom.Table):
            for name in vars(owner):
                self.assertTrue(name.startswith("__") or f"def {name}(" in stubs, name)


class Live(unittest.TestCase):
    def test_a_live_guest_runs_on_once_it_is_opened(self):
        command("extract", FOLDER.name)
        qmp = str(pathlib.Path(FOLDER.name, "qmp"))
        options = "-accel tcg -cpu max -m 64M -display none -no-reboot -monitor none -serial none"
        qemu = subprocess.Popen(
            ["qemu-system-x86_64", *options.split(), "-kernel", "heirloom-kernel"]
            + ["-append", "", "-qmp", f"unix:{qmp},server=on,wait=off"],
            cwd=FOLDER.name,
        )
        try:
            self.look(qemu, qmp)
        finally:
            qemu.kill()
            qemu.wait()

    def look(self, qemu, qmp):
        for _ in range(600):
            self.assertIsNone(qemu.poll())
            try:
                guest = heirloom.open(f"qemu:{qmp}")
                break
            except heirloom.Error as error:
                last = error
                try:
                    qemu.wait(0.1)
                except subprocess.TimeoutExpired:
                    pass
        else:
            self.fail(last)
        self.assertGreater(len(guest.roots()), 0)
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.connect(qmp)
            answers = monitor.makefile("rw")
            answers.readline()
            for ask in ("qmp_capabilities", "query-status"):
                answers.write(json.dumps({"execute": ask}) + "\n")
                answers.flush()
                answer = json.loads(answers.readline())
            self.assertTrue(answer["return"]["running"], answer)


def library(name):
    """A library of other people's, or the reason for which nothing is tried."""
    try:
        return __import__(name)
    except ImportError as error:
        raise unittest.SkipTest(f"not tried: {error}; PyPI has it") from error


class Tables(unittest.TestCase):
    def rows(self, *options):
        text = command("maps", GUEST, "--format", "csv", *options)
        return list(csv.DictReader(io.StringIO(text)))

    def check(self, table, rows):
        """A row of dictionaries is the line of CSV."""
        self.assertEqual(len(table), len(rows))
        for got, line in zip(table, rows):
            for name, text in line.items():
                value = got[name]
                if text == "":
                    self.assertIsNone(value, (name, line))
                elif text.startswith("0x"):
                    self.assertEqual(value, int(text, 16), (name, line))
                elif isinstance(value, bool):
                    self.assertEqual(value, text == "true", (name, line))
                else:
                    self.assertEqual(str(value), text, (name, line))

    def test_pyarrow_reads_what_the_command_writes_as_csv(self):
        pyarrow = library("pyarrow")
        guest = heirloom.open(GUEST)
        pages = guest.maps(root="all")
        table = pyarrow.table(pages)
        self.assertEqual(table.column_names, pages.column_names)
        self.assertEqual(pyarrow.schema(pages), table.schema)
        self.check(table.to_pylist(), self.rows("--root", "all", "--leaves"))
        self.assertEqual(table, pyarrow.table(pages), "read twice")
        self.assertGreater(table.column("va").num_chunks, 1)
        ranges = pyarrow.table(guest.maps(root="kernel", leaves=False))
        self.check(ranges.to_pylist(), self.rows("--root", "kernel"))
        half = pyarrow.table(guest.maps(root="pid1", within="user"))
        self.check(half.to_pylist(), self.rows("--pid", "1", "--leaves", "--user"))
        page = half.to_pylist()[0]
        within = f"{page['va']:#x}-{page['va'] + 1:#x}"
        self.assertEqual(pyarrow.table(guest.maps("pid1", within=within)).to_pylist(), [page])

    def stream(self, *options, target=GUEST):
        """What the command writes as Arrow."""
        words = [COMMAND, "maps", target, "--format", "arrow", *options]
        return subprocess.run(words, capture_output=True, check=True, timeout=120).stdout

    def test_pyarrow_reads_the_commands_stream_as_the_packages_table(self):
        pyarrow = library("pyarrow")
        import pyarrow.ipc

        guest = heirloom.open(GUEST)
        for options, asked in (
            (("--root", "all", "--leaves"), {"root": "all"}),
            (("--root", "kernel"), {"root": "kernel", "leaves": False}),
            (("--pid", "1", "--leaves", "--user"), {"root": "pid1", "within": "user"}),
        ):
            reader = pyarrow.ipc.open_stream(self.stream(*options))
            table = reader.read_all()
            table.validate(full=True)
            own = pyarrow.table(guest.maps(**asked))
            self.assertEqual(table.schema, own.schema)
            self.assertEqual(table.to_pylist(), own.to_pylist(), options)
            self.check(table.to_pylist(), self.rows(*options))
        nothing = pyarrow.ipc.open_stream(self.stream("--root", "kernel", "--filter", "w x"))
        self.assertEqual((nothing.schema, nothing.read_all().num_rows), (own.schema, 0))

    def test_polars_reads_the_commands_stream(self):
        polars = library("polars")
        frame = polars.read_ipc_stream(io.BytesIO(self.stream("--root", "all", "--leaves")))
        own = polars.DataFrame(heirloom.open(GUEST).maps(root="all"))
        self.assertEqual(frame.rows(), own.rows())
        self.assertEqual(frame.columns, own.columns)

    def test_polars_and_pandas_read_it(self):
        polars, pandas, pyarrow = library("polars"), library("pandas"), library("pyarrow")
        pages = heirloom.open(GUEST).maps(root="kernel")
        frame = polars.DataFrame(pages)
        self.assertEqual(frame["bytes"].sum(), pyarrow.table(pages).to_pandas()["bytes"].sum())
        self.assertEqual(frame.columns, pages.column_names)
        self.assertIsInstance(pyarrow.table(pages).to_pandas(), pandas.DataFrame)


class Documents(unittest.TestCase):
    def test_the_readmes_examples_run(self):
        text = (HERE.parent / "README.md").read_text()
        blocks = re.findall(r"```python\n(.*?)```", text, re.S)
        self.assertGreater(len(blocks), 3)
        before, names, ran = os.getcwd(), {}, 0
        os.chdir(FOLDER.name)
        try:
            for block in blocks:
                if all(have(name) for name in re.findall(r"^import (\w+)", block, re.M)):
                    exec(compile(block, "README.md", "exec"), names)
                    ran += 1
        finally:
            os.chdir(before)
        self.assertGreater(ran, 1)

    def test_the_notebook_draws_its_figure(self):
        matplotlib = library("matplotlib")
        library("polars")
        matplotlib.use("Agg")
        bug = str(pathlib.Path(FOLDER.name, "wx.rec"))
        command("run", "--bug", "writable-text", "--record", bug)
        os.environ["HEIRLOOM_RECORDING"] = bug
        figure = pathlib.Path(FOLDER.name, "figure.png")
        os.environ["HEIRLOOM_FIGURE"] = str(figure)
        notebook = json.loads((HERE.parent / "examples/figure.ipynb").read_text())
        self.assertEqual(notebook["nbformat"], 4)
        names = {}
        for number, cell in enumerate(notebook["cells"]):
            if cell["cell_type"] == "code":
                self.assertEqual(cell["outputs"], [], "what is stored is the source alone")
                exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
        self.assertGreater(figure.stat().st_size, 10_000)
        # What was drawn is what the guest did: tables are shared, and the mistake is seen.
        shared = names["shared"]
        self.assertTrue(all(shared[i][i] == 1 for i in range(len(shared))))
        self.assertTrue(all(0.2 < value <= 1 for row in shared for value in row))
        once = names["kernel_wx"][0]
        self.assertGreater(once, 0)
        self.assertEqual(names["kernel_wx"], [once * count for count in names["spaces"]])
        self.assertGreater(len(set(names["spaces"])), 2)
        self.assertEqual(set(names["user_wx"]), {0})


def have(name):
    try:
        __import__(name)
    except ImportError:
        return False
    return True


if __name__ == "__main__":
    unittest.main(verbosity=2)
