#!/usr/bin/env bash
# Two hosts on one machine, to run the files of cluster/ on. Each has its own network, name, processes,
# /tmp and /dev/shm; they share the disk, and /srv, which is the folder that is given. They have sshd,
# and Slurm with one GPU on each, which is an empty file. As root, on Debian with openssh-server,
# pdsh, munge, slurmctld and slurmd:
#   benchmarks/two_hosts.sh up /tmp/two_hosts
#   benchmarks/two_hosts.sh in /tmp/two_hosts 1 sbatch cluster/slurm/train.sbatch --config my.yaml
#   benchmarks/two_hosts.sh down /tmp/two_hosts
# The /run and ~/.ssh of this machine stay as they are: each host has empty ones of its own.
# benchmarks/one_machine_2026-11.md has what was run on them.
set -euo pipefail

command=$1 folder=$(realpath -m "$2")
shift 2

start_host() { # NUMBER: everything that is not a service
  # shellcheck disable=SC2016 # expanded on the host
  setsid unshare --net --uts --pid --fork --mount --propagation private --mount-proc bash -c '
    set -e
    hostname "node$1"
    ip link set lo up
    mount --bind "$2" /srv
    mount --bind "$2/tmp$1" /tmp
    mount --bind /srv/hosts /etc/hosts
    mkdir -p ~/.ssh
    for place in /dev/shm /run ~/.ssh; do mount -t tmpfs tmpfs "$place"; done
    cp /srv/keys/login ~/.ssh/id_ed25519
    cp /srv/keys/login.pub ~/.ssh/authorized_keys
    printf "Host *\n StrictHostKeyChecking no\n UserKnownHostsFile /dev/null\n LogLevel ERROR\n" \
      > ~/.ssh/config
    mkdir -p /run/sshd /run/munge /tmp/slurmd /tmp/slurmctld
    cp /srv/keys/munge /run/munge/key
    chown -R munge /run/munge
    touch /tmp/ready
    sleep infinity & wait # bash, as their first process, sees off those that end' _ "$1" "$folder" > "$folder/host$1.log" 2>&1 &
  until [[ -e $folder/tmp$1/ready ]]; do sleep 0.1; done
  pgrep --parent $! > "$folder/pid$1"
}

on() { # NUMBER COMMAND...
  local pid
  pid=$(cat "$folder/pid$1")
  SLURM_CONF=/srv/slurm.conf nsenter --target "$pid" --net --uts --pid --mount --wd="$PWD" "${@:2}"
}

start_services() { # NUMBER
  on "$1" /usr/sbin/sshd -h /srv/keys/host -o StrictModes=no -o UsePAM=no
  on "$1" setpriv --reuid=munge --regid=munge --clear-groups munged --key-file=/run/munge/key \
    --socket=/run/munge/munge.socket.2 --pid-file=/run/munge/pid --log-file=/run/munge/log \
    --seed-file=/run/munge/seed
  [[ $1 == 2 ]] || on "$1" slurmctld
  on "$1" slurmd
}

up() {
  mkdir -p "$folder"/{keys,tmp1,tmp2}
  chmod 1777 "$folder"/tmp?
  printf '%s\n' '127.0.0.1 localhost' '10.77.0.1 node1' '10.77.0.2 node2' > "$folder/hosts"
  ssh-keygen -q -t ed25519 -N '' -f "$folder/keys/login"
  ssh-keygen -q -t ed25519 -N '' -f "$folder/keys/host"
  head --bytes=1024 /dev/urandom > "$folder/keys/munge"
  chmod 400 "$folder/keys/munge"
  touch "$folder/gpu"
  echo "NodeName=node[1-2] Name=gpu File=/srv/gpu" > "$folder/gres.conf"
  cat > "$folder/slurm.conf" << 'END'
ClusterName=two
SlurmctldHost=node1
SlurmUser=root
SlurmdUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmdSpoolDir=/tmp/slurmd
StateSaveLocation=/tmp/slurmctld
SlurmctldLogFile=/tmp/slurmctld.log
SlurmdLogFile=/tmp/slurmd.log
GresTypes=gpu
NodeName=node[1-2] CPUs=2 CoresPerSocket=2 RealMemory=4000 Gres=gpu:1
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
  for number in 1 2; do start_host "$number"; done
  ip link add c1 netns "$(cat "$folder/pid1")" type veth peer name c2 netns "$(cat "$folder/pid2")"
  for number in 1 2; do
    on "$number" ip address add "10.77.0.$number/24" dev "c$number"
    on "$number" ip link set "c$number" up
  done
  for number in 1 2; do start_services "$number"; done
  on 1 sinfo
}

case $command in
  up) up ;;
  in) on "$@" ;;
  down) for number in 1 2; do kill -KILL "$(cat "$folder/pid$number")"; done ;;
esac
