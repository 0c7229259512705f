//! How does the container runtime attach a pod to this node?
