"""make install into a folder, and what the script in grub.d makes of kernels there; without a boot loader."""

import os
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
SCRIPT = TOP / "install/20_linux_strata"
# Of grub-mkconfig's own library, which asks grub-probe for the machine's real disks, only what the script calls.
LIBRARY = """
grub_quote() { sed "s/'/'\\\\\\\\''/g"; }
grub_add_tab() { sed "s/^/\\t/"; }
make_system_path_relative_to_its_root() { echo /boot; }
prepare_grub_to_access_device() { echo "insmod ext2 # $1"; }
grub_file_is_not_garbage() { case $1 in *.dpkg-*) return 1 ;; esac; }
"""


class Install(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="strata-install-")
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)

    def make(self, target):
        done = subprocess.run(["make", "-s", "-C", TOP, target, f"DESTDIR={self.root}", "PREFIX=/usr", "INSTALL=install",
                               f"BUILD={self.root}/build"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)

    def files(self):
        return sorted(str(p.relative_to(self.root)) for p in self.root.rglob("*") if p.is_file() and "build" not in p.parts)

    def built(self):
        """Stand-ins for what make would build, newer than all sources."""
        (self.root / "build").mkdir()
        for name in ("strata.elf", "strata-stat"):
            (self.root / "build" / name).write_bytes(name.encode())
        return subprocess.run(["make", "-s", "-C", TOP, "-o", f"{self.root}/build/strata.elf", "-o", f"{self.root}/build/strata-stat",
                               "install", f"DESTDIR={self.root}", "PREFIX=/usr", f"BUILD={self.root}/build"],
                              capture_output=True, text=True)

    def test_installed_and_removed(self):
        done = self.built()
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(self.files(), ["boot/strata.elf", "etc/default/grub.d/strata.cfg", "etc/grub.d/20_linux_strata",
                                        "usr/bin/strata-stat", "usr/share/man/man1/strata-stat.1"])
        self.make("uninstall")
        self.assertEqual(self.files(), [])

    def test_settings_survive(self):
        settings = self.root / "etc/default/grub.d/strata.cfg"
        settings.parent.mkdir(parents=True)
        settings.write_text("export GRUB_CMDLINE_STRATA=log=warn\n")
        self.built()
        self.assertIn("log=warn", settings.read_text())


class Menu(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="strata-menu-")
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)
        (self.root / "boot").mkdir()
        (self.root / "uuid").mkdir()
        (self.root / "uuid/1-2").touch()
        (self.root / "grub-mkconfig_lib").write_text(LIBRARY)

    def kernels(self, *versions):
        (self.root / "boot/strata.elf").touch()
        for version in versions:
            (self.root / f"boot/vmlinuz-{version}").touch()
            if "bare" not in version:
                (self.root / f"boot/initrd.img-{version}").touch()

    def menu(self, **settings):
        env = dict(os.environ, pkgdatadir=str(self.root), STRATA_BOOT=str(self.root / "boot"),
                   STRATA_BY_UUID=str(self.root / "uuid"), GRUB_DISTRIBUTOR="Debian", GRUB_DEVICE="/dev/sda1",
                   GRUB_DEVICE_UUID="1-2", GRUB_CMDLINE_LINUX_DEFAULT="quiet", GRUB_CMDLINE_LINUX="a=b",
                   GRUB_CMDLINE_STRATA="log=warn", **settings)
        done = subprocess.run(["sh", SCRIPT], env=env, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        if done.stdout and shutil.which("grub-script-check"):
            checked = subprocess.run(["grub-script-check"], input=done.stdout, text=True, capture_output=True)
            self.assertEqual(checked.returncode, 0, checked.stderr + done.stdout)
        return done.stdout

    def test_without_strata(self):
        (self.root / "boot/vmlinuz-6.1").touch()
        self.assertEqual(self.menu(), "")

    def test_without_kernels(self):
        self.kernels()
        self.assertEqual(self.menu(), "")

    def test_entries(self):
        self.kernels("6.1.0-9-amd64", "6.1.0-10-amd64", "6.0-bare", "5.0.dpkg-new")
        lines = [line.strip() for line in self.menu().splitlines()]
        titles = [line.split("'")[1] for line in lines if line.startswith(("menuentry", "submenu"))]
        self.assertEqual(titles[:4], ["Debian GNU/Linux, with Strata", "Advanced options for Debian GNU/Linux, with Strata",
                                      "Debian GNU/Linux, with Strata and Linux 6.1.0-10-amd64",
                                      "Debian GNU/Linux, with Strata and Linux 6.1.0-10-amd64 (recovery mode)"])
        self.assertEqual(len(titles), 2 + 2 * 3)
        self.assertEqual(lines.count("multiboot2\t/boot/strata.elf log=warn"), 7)
        self.assertIn("module2\t/boot/vmlinuz-6.1.0-10-amd64 root=UUID=1-2 ro a=b quiet", lines)
        self.assertIn("module2\t/boot/vmlinuz-6.1.0-10-amd64 root=UUID=1-2 ro single a=b", lines)
        self.assertEqual(lines.count("module2\t--nounzip /boot/initrd.img-6.1.0-10-amd64"), 3)
        self.assertIn("module2\t/boot/vmlinuz-6.0-bare root=UUID=1-2 ro a=b quiet", lines)
        self.assertNotIn("module2\t--nounzip /boot/initrd.img-6.0-bare", lines)

    def test_settings(self):
        self.kernels("6.1")
        menu = self.menu(GRUB_DISABLE_SUBMENU="true", GRUB_DISABLE_RECOVERY="true", GRUB_DISABLE_LINUX_UUID="true")
        self.assertNotIn("submenu", menu)
        self.assertNotIn("recovery", menu)
        self.assertIn("root=/dev/sda1 ro", menu)

    def test_ids_differ(self):
        self.kernels("6.1", "6.2")
        ids = [line.split("menuentry_id_option '")[1].split("'")[0] for line in self.menu().splitlines() if "menuentry_id_option" in line]
        self.assertEqual(len(ids), len(set(ids)))
