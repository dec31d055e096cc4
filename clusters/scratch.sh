#!/usr/bin/env bash
# Makes a folder on a node's fastest disk, for staged betons and caches, and lets USER write there:
#
#   sudo bash clusters/scratch.sh /mnt/scratch [USER]
#
# It takes the image's own mount of the instance's NVMe (/opt/dlami/nvme on AWS's deep learning images), else it formats and mounts
# the first empty local NVMe disk of an AWS or GCP instance, else it is a plain folder on the root disk. Run again it changes nothing;
# after a stop of the instance, which empties such disks, it makes them anew. It never touches a disk that has partitions, a file
# system or a mount, nor a network disk.
set -euo pipefail

folder=${1:?usage: scratch.sh FOLDER [USER]}
user=${2:-${SUDO_USER:-$(id -un)}}
ready_made=${READY_MADE:-/opt/dlami/nvme}

# Prints the device of the first local NVMe disk that is empty. AWS and GCP tell local from network disks by the model's name.
empty_local_disk() {
    local name model
    while read -r name model; do
        case $model in
            "Amazon EC2 NVMe Instance Storage" | nvme_card*) ;;
            *) continue ;;
        esac
        # One line is the disk itself; more are its partitions. A file system or a member of a volume has a type.
        if [[ $(lsblk -nro NAME "/dev/$name" | wc -l) == 1 && -z $(lsblk -dnro FSTYPE,MOUNTPOINT "/dev/$name" | tr -d ' \n') ]] &&
            ! blkid "/dev/$name" >/dev/null; then
            printf '/dev/%s' "$name"
            return
        fi
    done < <(lsblk -dno NAME,MODEL)
}

mkdir -p "$folder"
if ! mountpoint -q "$folder"; then
    if mountpoint -q "$ready_made"; then
        mount --bind "$ready_made" "$folder"
    else
        disk=$(empty_local_disk)
        if [[ -n $disk ]]; then
            mkfs.ext4 -q -m 0 -E nodiscard "$disk"
            mount -o noatime "$disk" "$folder"
        fi
    fi
fi
chown "$user" "$folder"
printf 'scratch: %s has %s free (%s)\n' "$folder" "$(df -h --output=avail "$folder" | tail -1 | tr -d ' ')" \
    "$(df --output=source "$folder" | tail -1)"
