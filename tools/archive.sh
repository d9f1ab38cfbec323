# SPDX-License-Identifier: BSD-3-Clause
#
# For scripts that take packages out of another release of Debian than the system's: source it, then
#
#	site=$(archive_site)
#	archive_configure FOLDER SITE SUITE...
#	export APT_CONFIG=FOLDER/apt.conf
#
# From then on apt knows these suites alone, with a state, package lists and an empty dpkg status of its own below FOLDER.

archive_keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# Prints where this machine gets Debian from: the archive that its own release comes from, not its security updates.
archive_site() {
	# The fields of a Release file that has not been fetched are empty, but the name of the suite is always there.
	apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Identifier: Packages' 2>/dev/null |
		awk '$3 == "main" && $2 !~ /-security$|\/updates$/ && $1 ~ /\/debian\/?$/ { print $1; exit }'
}

# The last of the suites is preferred.
archive_configure() {
	local folder=$1 site=$2 suites=("${@:3}")

	mkdir -p "$folder"/{lists/partial,cache/archives/partial,empty}
	: >"$folder/status"
	printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nArchitectures: amd64\nSigned-By: %s\n' \
		"$site" "${suites[*]}" "$archive_keyring" >"$folder/debian.sources"
	cat >"$folder/apt.conf" <<-CONF
		Dir::Etc::SourceList "$folder/debian.sources";
		Dir::Etc::SourceParts "$folder/empty";
		Dir::Etc::Preferences "$folder/no-preferences";
		Dir::Etc::PreferencesParts "$folder/empty";
		Dir::State "$folder";
		Dir::State::Lists "$folder/lists";
		Dir::State::Status "$folder/status";
		Dir::State::Extended_States "$folder/extended_states";
		Dir::Cache "$folder/cache";
		APT::Architecture "amd64";
		APT::Architectures { "amd64"; };
		APT::Default-Release "${suites[-1]}";
		APT::Install-Recommends "false";
		APT::Install-Suggests "false";
		APT::Sandbox::User "";
		APT::Update::Post-Invoke-Success "";
		Acquire::Languages "none";
		Acquire::Retries "3";
		Acquire::AllowInsecureRepositories "false";
		Debug::NoLocking "1";
	CONF
}
